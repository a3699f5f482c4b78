"""Odd options of the training scripts: meant as they stand, or refused in a sentence."""

import contextlib
import json

import pytest
from hyperpyyaml import load_hyperpyyaml
from hypothesis import example, given
from hypothesis import strategies as st

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.experiment import parse_arguments
from ser_ts_lobes.options import check_settings
from ser_ts_lobes.settings import plain_hparams_errors, read_settings
from tests.hostile import CELLS, damaged, is_a_sentence

HPARAMS = """\
system: ft
seed: 1
results_folder: results
data_folder: !PLACEHOLDER
output_folder: !ref <results_folder>/<system>/<seed>
lr: 0.1
max_grad_norm: null
names: [a, b]
opt_class: !name:torch.optim.Adam
    lr: !ref <lr>
opts:
    skip_prep: False
"""
# What follows from each key.
FOLLOWS = {"lr": {"opt_class"}, "seed": {"output_folder"}, "system": {"output_folder"}}
TOUCHED = ["lr", "seed", "system", "data_folder", "max_grad_norm", "names", "opt_class", "opts"]

YAML = st.sampled_from(
    [
        "[1",
        "{a: 1",
        "{a: 1}",
        "{lr: 0.2}",
        "*x",
        "&a 1",
        "&a [*a]",
        "[&a 1, *a]",
        "a: b",
        "- 1",
        "? x",
        "|",
        "> x",
        "'",
        '"',
    ]
    + [
        "1 # c",
        "#",
        "1\nseed: 3",
        "1\r\nlr: 3",
        "---",
        "...",
        "%TAG",
        "@x",
        "`x",
        "<<: x",
        "! 1",
        "\t1",
        "1\u2028seed: 3",
    ]
    + [
        "010",
        "0x10",
        "0o10",
        "0b1",
        "1_000",
        "1:30",
        "yes",
        "no",
        "on",
        "~",
        "null",
        ".nan",
        ".inf",
        "1e400",
        "2026-01-01",
    ]
    + [
        "2001-12-14t21:59:43.10-05:00",
        "(1, 2)",
        "true",
        "False",
        "+1",
        "-0",
        "1e3",
        "1E-3",
        "1.",
        '"1"',
        "'1'",
        "\ud800",
    ]
)
TAGS = st.sampled_from(
    [
        "!!python/object:os.system",
        "!!python/object/apply:os.getcwd []",
        "!!int 3",
        "!!float 1",
        "!!binary aGk=",
        "!!set {a}",
    ]
    + [
        "!!foo 1",
        "!foo 1",
        "!tuple",
        "!tuple (1, 2)",
        "!PLACEHOLDER",
        "!include:nowhere.yaml",
        "!name:no.where",
        "!new:no.where",
    ]
    + [
        "!new:torch.nn.Linear {a: 1}",
        "!name:torch.optim.Adam {lr: 1}",
        "!ref <seed>",
        "!ref <lr>",
        "!ref <lr> + 1",
        "!ref <no>",
    ]
    + ["!ref <seed> // 0", "!ref <opts[no]>", "!copy <names>", "<lr>", "<seed>", "!ref", "!ref <"]
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "ft.yaml"
    path.write_text(HPARAMS)
    return path


@pytest.fixture(scope="module")
def sound(path):
    return read_settings(path, "data_folder: /x")


def read(path, *options):
    """Read settings as the scripts do, and as HyperPyYAML loads them; None where they are refused in a sentence."""
    try:
        file, _, overrides = parse_arguments([str(path), "--data_folder=/x", *options])
        settings = read_settings(file, overrides)
        with plain_hparams_errors(file), open(file, encoding="utf-8") as text:
            return settings, load_hyperpyyaml(text, overrides)
    except InputError as error:
        assert is_a_sentence(error)
        return None


def plain(value):
    """Say whether something is what HyperPyYAML has made no object of."""
    return value is None or isinstance(value, bool | int | float | str | list | dict)


@given(st.sampled_from([name for name in TOUCHED if name != "data_folder"]), YAML | TAGS | CELLS)
@example("lr", "1 # c").via("it was 1")
@example("lr", "1\nseed: 3").via("it set the seed, too")
@example("seed", "010").via("it was 8 in what a run says of itself, and 10 in the run")
@example("max_grad_norm", "yes").via("True, and 'yes' in the run")
@example("lr", "9" * 400).via("OverflowError")
@example("lr", "[1").via("ParserError")
@example("lr", "*x").via("ComposerError")
@example("lr", "!ref <lr> + 1").via("RecursionError")
@example("seed", "2026-01-01").via("a date, which no checkpoint can say")
def test_an_option_is_meant_as_it_stands_or_refused(path, sound, name, value):
    both = read(path, f"--{name}={value}")
    if both is None:
        return
    settings, loaded = both
    assert {key for key in sound if repr(settings[key]) != repr(sound[key])} <= {name} | FOLLOWS.get(name, set())
    assert settings.keys() == sound.keys()
    json.dumps(settings)  # a checkpoint says what it was made with
    if plain(loaded[name]) and not value.startswith("!"):
        assert repr(settings[name]) == repr(loaded[name])
    with contextlib.suppress(InputError):
        check_settings(settings)


@given(
    st.lists(
        CELLS | st.sampled_from(["--lr", "--lr=1", "--", "--=", "--debug", "--lr==", "-lr", "--opts={a: 1}"]),
        max_size=4,
    )
)
def test_odd_command_lines_are_read_or_refused(path, tokens):
    try:
        read(path, *tokens)
    except SystemExit:  # of argparse, which has said why
        assert any(token.startswith("--") for token in tokens)


@given(st.data())
def test_damaged_hparams_are_read_or_refused(path, data):
    damage = path.with_name("damaged.yaml")
    damage.write_bytes(data.draw(damaged(HPARAMS.encode())))
    try:
        settings = read_settings(damage, "data_folder: /x")
        read_settings(damage)
    except InputError as error:
        assert is_a_sentence(error)
    else:
        assert isinstance(settings, dict)
