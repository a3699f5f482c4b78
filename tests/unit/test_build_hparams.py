import re

import pytest
from hyperpyyaml import load_hyperpyyaml

from ser_ts_lobes.errors import InputError
from tools.build_hparams import ROOT, compose, flat_files, read_blocks

FILES = flat_files()
HPARAMS = sorted((ROOT / "recipes").rglob("hparams/*.yaml"))  # with those that are written by hand
# A place in the ICASSP 2022 paper, us, or a baseline's paper, such as "Lin and Busso 2020".
PLACE = r"paper, (section [34]\.\d|Eq\. [1-8]|Table [1-3])"
SOURCE = re.compile(rf"# ({PLACE}|ours|[A-Z]\w+ (and [A-Z]\w+|et al\.) 20\d\d)")
NAMES = {path: f"{path.parts[-3]}-{path.stem}" for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=NAMES.get)
def test_the_flat_file_is_up_to_date(path):
    assert path.is_file() and path.read_text(encoding="utf-8") == FILES[path], "run `make hparams`"


@pytest.mark.parametrize("path", FILES, ids=NAMES.get)
def test_a_flat_file_says_first_what_it_is_written_from(path):
    first, *sources = FILES[path].split("\n#\n")[0].splitlines()
    assert first.startswith("# Written by `make hparams` from")
    sources = [source.removeprefix("#   ") for source in sources]
    assert f"hparams/systems/{path.stem}.yaml" in sources and all((ROOT / source).is_file() for source in sources)


def test_no_flat_file_is_left_over():
    assert set((ROOT / "recipes").glob("*/hparams/*.yaml")) == set(FILES)


@pytest.mark.parametrize("path", HPARAMS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_each_constant_says_where_it_comes_from(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if re.match(r"\s*\w+: (\d[\d.]*|\[)", line):
            said = SOURCE.search(line) or "# ours" in lines[number - 2]
            assert said, f"line {number}: {line}"


def test_the_paper_is_cited_by_number():
    folders = [ROOT / name for name in ("hparams", "ser_ts_lobes", "tools", "docs")]
    files = [path for folder in folders for path in folder.rglob("*")] + HPARAMS
    files += [*(ROOT / "recipes").rglob("*.py"), *(ROOT / "recipes").rglob("*.md")]
    files = [path for path in files if path.suffix in (".py", ".yaml", ".md")]
    vague = [
        f"{path.relative_to(ROOT)}, line {number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\b(method|experiments) section", line)
    ]
    assert len(files) > 90 and not vague, vague


@pytest.mark.parametrize(
    ("system", "encoders", "layers", "taught"),
    [
        ("hubert_base", {"speech_encoder"}, 0, False),
        ("bert_base", {"text_encoder"}, None, False),
        ("teacher", {"speech_encoder", "text_encoder"}, 0, False),
        ("ft", {"speech_encoder"}, 2, False),
        ("ts", {"speech_encoder"}, 2, True),
        ("cts", {"speech_encoder"}, 2, True),
    ],
)
def test_a_flat_file_loads_and_takes_overrides(tmp_path, tiny_hubert, tiny_bert, system, encoders, layers, taught):
    overrides = {"data_folder": "corpus", "results_folder": str(tmp_path), "lr": 0.01}
    if "speech_encoder" in encoders:
        overrides |= {"speech_source": tiny_hubert, "trainable_layers": layers}
    if "text_encoder" in encoders:
        overrides |= {"text_source": tiny_bert}
    hparams = load_hyperpyyaml(compose("MSP-Podcast", system), overrides)
    assert hparams["system"] == system
    assert set(hparams["modules"]) == {"model", "label_scale", *encoders}
    assert hparams["model"] is hparams["checkpointer"].recoverables["model"] is hparams["modules"]["model"]
    assert ("teacher_folder" in hparams) == taught
    if "speech_encoder" in encoders:
        assert hparams["encoder_lr"] == pytest.approx(0.0025)
    assert hparams.get("residual_threshold") == (2.0 if system == "cts" else None)


def test_a_later_block_replaces_and_keeps_the_comment():
    flat = compose("MSP-Podcast", "cts")
    assert flat.count("\nresidual_threshold: ") == 1
    assert "every\n# dimension; null: on all.\nresidual_threshold: 2.0  # paper" in flat
    assert "PLACEHOLDER" not in flat.split("data_folder")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# ----- Run\n?", "base.yaml, line 2: expected a key"),
        ("# ----- Nonsense\n", "base.yaml, line 1: no section 'Nonsense'"),
        ("seed: 1\n", "before the first section"),
    ],
)
def test_a_file_of_another_form_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        read_blocks(text, "base.yaml")
