"""Compose the tree that proposes the paper's recipes to SpeechBrain.

To run: ``make speechbrain-pr OUT=folder``, or ``python -m tools.speechbrain_pr.compose OUT``. OUT may be a checkout of
SpeechBrain, or a folder whose content is then copied over one.

The recipes here stay as they are. What SpeechBrain alone asks for is made on the way: folders of its form, its line
length, a licence header in each file, ``README.md`` and ``extra_requirements.txt`` of each recipe, and what its
consistency tests want. These look for each key of a YAML in the script, by name; here, most are read in the package,
which is declared as a dependency. So a script gets a function that hands over to the package, by name, the keys that
the package reads, and no others; and what nothing reads is left out of the YAML.

The rows of ``tests/recipes`` run on SpeechBrain's own ``tests/samples/ASR``, with made-up labels and small random
networks in ``tests/samples/SER``. Rows of other recipes on the same corpus are kept: those in OUT or, where it has
none, those of the checkout that ``--source`` names.
"""

import argparse
import ast
import csv
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ser_ts_lobes import DIMENSIONS, __version__
from ser_ts_lobes.data.manifests import COLUMNS
from ser_ts_lobes.errors import plain_errors
from ser_ts_lobes.experiment import RUN_OPTIONS
from ser_ts_lobes.settings import read_settings
from ser_ts_lobes.text_files import write_csv
from tests.tiny_models import TINY_WORDS, save_tiny_bert, save_tiny_cpc, save_tiny_ssl, save_word_vectors
from tools.build_hparams import lay_out, read_blocks

ROOT = Path(__file__).resolve().parents[2]

LICENCE = "# Copyright 2026 The authors of ser_ts_lobes\n# SPDX-License-Identifier: Apache-2.0\n"
AUTHORS = "Authors\n * The authors of ser_ts_lobes 2026\n"
REQUIREMENTS = f"# attn: openSMILE, for hparams/attn.yaml alone\nser_ts_lobes[attn]>={__version__}\n"

# Of SpeechBrain's pyproject.toml, what decides how code is laid out.
_RUFF = ("--isolated", "--config=line-length=80", "--config=target-version='py38'", "--quiet")
_LAYOUT = (
    ("check", "--select=I", "--fix", "--config=lint.isort.known-first-party=['speechbrain']"),
    ("format", "--config=format.docstring-code-format=true"),
)

#: Where the rows of tests/recipes find what they need in SpeechBrain's checkout, and where they write.
AUDIO, SAMPLES, TMP = "tests/samples/ASR", "tests/samples/SER", "tests/tmp"
# The recordings there, with the seconds that they last.
_DURATIONS_S = {
    "train": {
        **{"spk1_snt1": 2.87, "spk1_snt2": 3.15, "spk1_snt3": 2.72, "spk1_snt4": 2.53},
        **{"spk2_snt1": 2.01, "spk2_snt2": 1.76, "spk2_snt3": 1.88, "spk2_snt4": 2.04},
    },
    "valid": {"spk1_snt5": 2.6, "spk2_snt5": 1.98},
    "test": {"spk1_snt6": 2.29, "spk2_snt6": 1.8},
}
# Where the package reads hparams in a run; elsewhere it is given arguments.
_READERS = ("experiment.py", "provenance.py", "results", "training")

# How long a row trains, and below what its loss ends, which tells that it is a number, not that much was learnt. Where
# nothing is named, the loss is 1 - CCC, at most 2.
_EPOCHS = 3
_LOSS_LIMITS = {
    "ts": 60,  # 30 times the distance to the teacher comes on top
    "cts": 60,
    "train_cpc": 6,  # InfoNCE; a guess is log 129
}


class Recipe(NamedTuple):
    """Where a recipe is here (below ``recipes``), where it goes, and its README, below this folder."""

    here: str
    there: str
    readme: str

    @property
    def corpus(self) -> str:
        """The name of its file in ``tests/recipes``."""
        return self.there.split("/")[0]


RECIPES = (
    Recipe("MSP-Podcast", "MSP-Podcast/emotion_regression/teacher_student", "MSP-Podcast.md"),
    Recipe("IEMOCAP", "IEMOCAP/emotion_regression/teacher_student", "IEMOCAP.md"),
    Recipe("LibriSpeech/CPC", "LibriSpeech/self-supervised-learning/CPC", "CPC.md"),
)
#: Corpora of which SpeechBrain has recipes, and so a file of rows.
SHARED = ("IEMOCAP", "LibriSpeech")


def compose(out, source=None):
    """Write the tree.

    Parameters
    ----------
    out : str | pathlib.Path
        A checkout of SpeechBrain, or any folder; files that stand there are replaced.
    source : str | pathlib.Path | None
        A checkout of SpeechBrain, whose rows are kept where `out` has none.

    Returns
    -------
    list[str]
        Files of rows that lack those of SpeechBrain's own recipes.
    """
    out, incomplete = Path(out), []
    for recipe in RECIPES:
        rows = _rows(recipe)
        _write_recipe(recipe, rows, out / "recipes" / recipe.there)
        path = Path("tests", "recipes", f"{recipe.corpus}.csv")
        earlier = next((base / path for base in (out, Path(source or out)) if (base / path).is_file()), None)
        _write_rows(out / path, earlier, recipe, rows)
        if recipe.corpus in SHARED and not _has_others(out / path, recipe):
            incomplete.append(str(path))
    _write_samples(out / SAMPLES)
    return incomplete


def _rows(recipe):
    """Give the rows of tests/recipes that go along: of the systems that are the paper's."""
    with open(ROOT / "tests" / "recipes" / f"{recipe.corpus}.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Script_file"].startswith(f"recipes/{recipe.here}/")]
    settings = [read_settings(ROOT / row["Hparam_file"]) for row in rows]
    return [
        row
        for row, of_row in zip(rows, settings, strict=True)
        if of_row["system"] in of_row.get("rows", [of_row["system"]])
    ]


def _write_recipe(recipe, rows, folder):
    """Write a recipe in SpeechBrain's form."""
    here = ROOT / "recipes" / recipe.here
    scripts = {path.name: path.read_text(encoding="utf-8") for path in sorted(here.glob("*.py"))}
    read = names_in_package(*_READERS).union(*(names_in(scripts[Path(row["Script_file"]).name]) for row in rows))
    keys_of: dict[str, list[list[str]]] = {}
    for row in rows:
        hparams = folder / "hparams" / Path(row["Hparam_file"]).name
        hparams.parent.mkdir(parents=True, exist_ok=True)
        text = _hparams((ROOT / row["Hparam_file"]).read_text(encoding="utf-8"), read, recipe)
        hparams.write_text(text, encoding="utf-8")
        keys_of.setdefault(Path(row["Script_file"]).name, []).append(list(read_settings(hparams)))
    for name, text in scripts.items():
        if name in keys_of:
            text = _with_keys(text, keys_of[name])
        (folder / name).write_text(_with_licence(text), encoding="utf-8")
    for command in _LAYOUT:
        # From a folder above, as in SpeechBrain: ruff takes modules beside where it starts for one's own.
        subprocess.run([sys.executable, "-m", "ruff", *command, *_RUFF, folder.name], cwd=folder.parent, check=True)
    if (here / "paper.csv").is_file():
        shutil.copy(here / "paper.csv", folder)
    readme = (Path(__file__).parent / recipe.readme).read_text(encoding="utf-8")
    (folder / "README.md").write_text(readme.replace("{results}\n", _results(here, rows)), encoding="utf-8")
    (folder / "extra_requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")


def names_in(code):
    """Collect what may name a key of hparams in Python code: strings, and the attributes of hparams.

    Parameters
    ----------
    code : str
        Python.

    Returns
    -------
    set[str]

    Example
    -------
    >>> sorted(names_in('getattr(hparams, "lr") + self.hparams.seed + other.rows'))
    ['lr', 'seed']
    """
    nodes = list(ast.walk(ast.parse(code)))
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    attributes = (node for node in nodes if isinstance(node, ast.Attribute))
    return strings | {node.attr for node in attributes if ast.unparse(node.value).endswith("hparams")}


def names_in_package(*rooms):
    """Collect what may name a key of hparams where the package, or SpeechBrain's Brain under it, reads them in a run.

    Parameters
    ----------
    *rooms : str
        Modules and folders of the package.

    Returns
    -------
    set[str]
    """
    places = [ROOT / "ser_ts_lobes" / room for room in rooms]
    files = [path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])]
    return RUN_OPTIONS.union(*(names_in(path.read_text(encoding="utf-8")) for path in files))


def _hparams(text, read, recipe):
    """Leave out what nothing reads; define each key before it is referred to, where SpeechBrain's tests look for it."""
    head, _, body = text.partition("\n# -----")
    blocks = read_blocks(f"# -----{body}", "hparams")
    kept = [block for block in blocks if block[1] in read or block[1].startswith("__") or f"<{block[1]}" in body]
    for block in list(kept):
        first_use = next(at for at, (_, key, other) in enumerate(kept) if key == block[1] or f"<{block[1]}>" in other)
        kept.remove(block)
        kept.insert(first_use, block)
    about = [line for line in head.splitlines() if not re.match(r"# Written by|#   hparams/|#$", line)]
    lines = [LICENCE.rstrip(), "#", *about, *lay_out((section, block) for section, _, block in kept)]
    moved = "\n".join(lines) + "\n"
    up = "/".join([".."] * len(Path(recipe.there).parts))
    for other in RECIPES:
        moved = moved.replace(f"../{other.here}/results", f"{up}/{other.there}/results")
        moved = moved.replace(f"recipes/{other.here}", f"recipes/{other.there}")
    return moved


def _with_keys(script, keys_of_files):
    """Let a script name what it and the package read of its hparams files."""
    [load], main = re.findall(r" hparams = (load_experiment\(.+\))\n", script), '\n\nif __name__ == "__main__":'
    # Here a Brain's check of values counts, too, although it is no use of them.
    read = names_in_package("options.py", *_READERS) | set(re.findall(r'\bhparams\["(\w+)"\]', script))
    in_order = dict.fromkeys(key for keys in keys_of_files for key in keys if key in read)
    groups: dict[tuple[bool, ...], list[str]] = {}
    for key in in_order:
        groups.setdefault(tuple(key in keys for keys in keys_of_files), []).append(key)
    everywhere = groups.pop((True,) * len(keys_of_files))
    lines = [
        "def keys_read(hparams):",
        '    """Pick the keys that are read from here on, by name: ser_ts_lobes gets no others."""',
    ]
    lines += ["    keys = {", *(f'        "{key}": hparams["{key}"],' for key in [*everywhere, "settings"]), "    }"]
    for keys in groups.values():
        lines += [f'    if "{keys[0]}" in hparams:', "        keys.update({"]
        lines += [*(f'            "{key}": hparams["{key}"],' for key in keys), "        })"]
    lines += ["    return Hparams(keys, hparams.file)"]
    script = script.replace(load, f"keys_read({load})").replace(main, "\n\n" + "\n".join(lines) + f"\n\n{main}")
    return script.replace(
        "\n\nfrom ser_ts_lobes.", "\n\nfrom ser_ts_lobes.settings import Hparams\nfrom ser_ts_lobes.", 1
    )


def _with_licence(script):
    """Put the licence above a script's docstring, and its authors at the end of that."""
    shebang, body = re.fullmatch(r'(#![^\n]*\n)?(""".*)', script, re.DOTALL).groups(default="")
    start, end, rest = body.partition('\n"""\n')
    return f"{shebang}{LICENCE}{start}\n\n{AUTHORS}{end.lstrip()}{rest}"


def _results(here, rows):
    """Make the README's rows: the paper's figures, as such, beside ours, which do not exist without the corpus."""
    if not (here / "paper.csv").is_file():
        return ""
    with open(here / "paper.csv", encoding="utf-8", newline="") as file:
        figures = {row["system"]: row for row in csv.DictReader(file) if row["split"] == "test"}
    lines = [
        "| hyperparams file | the paper's test CCC: activation / valence / dominance | ours |",
        "| --- | --- | --- |",
    ]
    for name in dict.fromkeys(Path(row["Hparam_file"]).name for row in rows):
        figure = figures.get(name.removesuffix(".yaml"))
        cells = " / ".join(figure[dimension] for dimension in DIMENSIONS) if figure else "–"
        lines.append(f"| {name} | {cells} | – |")
    return "\n".join(lines) + "\n"


def _write_rows(path, earlier, recipe, rows):
    """Write the rows of a corpus: those that were there, then ours."""
    lines = earlier.read_text(encoding="utf-8").splitlines() if earlier else [",".join(rows[0])]
    table = io.StringIO()
    writer = csv.DictWriter(table, next(csv.reader(lines)), restval="", lineterminator="\n")
    writer.writerows(_row(row, recipe) for row in rows)
    kept = [line for line in lines if f"recipes/{recipe.there}/" not in line]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*kept, table.getvalue()]), encoding="utf-8")
    setup = path.parent / "setup"
    for row in rows:
        # SpeechBrain's runner makes no folder that a row names itself.
        folder = _flags(row, recipe).get("output_folder")
        if folder and Path(row["Script_file"]).stem.startswith("train"):
            script = f"recipes/{recipe.there}/{Path(row['Script_file']).stem}".replace("/", "_")
            command = setup / script / f"hparams_{Path(row['Hparam_file']).stem}"
            command.parent.mkdir(parents=True, exist_ok=True)
            command.write_text(f"#!/bin/sh\nmkdir -p {folder}\n", encoding="utf-8")
            command.chmod(0o755)


def _has_others(path, recipe):
    with open(path, encoding="utf-8", newline="") as file:
        return any(f"recipes/{recipe.there}/" not in row["Script_file"] for row in csv.DictReader(file))


def _row(row, recipe):
    """Make a row of SpeechBrain's from one of ours."""
    moved = {
        name: row[name].replace(f"recipes/{recipe.here}/", f"recipes/{recipe.there}/")
        for name in ("Script_file", "Hparam_file", "Data_prep_file", "Readme_file")
    }
    script, system = Path(row["Script_file"]).stem, Path(row["Hparam_file"]).stem
    limit = _LOSS_LIMITS.get(script, _LOSS_LIMITS.get(system, 2))
    # Without a check of its performance, the runner would run the row in debug mode, which leaves no results.
    checks = f"{row['test_debug_checks']} performance_check=[train_log.txt, train loss, <{limit}, epoch: {_EPOCHS}]"
    checks = checks.replace("/test1.", "/test.").replace("uncertainty.json,", "")  # one test set, no unrated speech
    flags = " ".join(f"--{key}={value}" for key, value in _flags(row, recipe).items())
    return {**row, **moved, "test_debug_flags": flags, "test_debug_checks": checks}


def _flags(row, recipe):
    """Give the flags of a row, moved to what SpeechBrain's checkout has."""
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in shlex.split(row["test_debug_flags"]))
    system = Path(row["Hparam_file"]).stem
    teacher = f"{TMP}/{recipe.corpus}_teacher"
    for key in ("device", "unrated_manifest"):  # the runner names the one, no system here needs the other
        flags.pop(key, None)
    flags = {key: value.replace(f"{TMP}/", f"{SAMPLES}/") for key, value in flags.items()}
    flags |= {"data_folder": AUDIO, "results_folder": f"{TMP}/{recipe.corpus}_results", "batch_size": "4"}
    if "number_of_epochs" in flags:
        flags["number_of_epochs"] = str(_EPOCHS)
    if row["Data_prep_file"]:
        flags |= {"manifest_folder": f"{SAMPLES}/annotation", "skip_prep": "True"}
    if system == "cpc" and "speech_source" in flags:
        flags["speech_source"] = f"{SAMPLES}/cpc.pt"
    if system == "teacher":
        flags["output_folder"] = teacher
    if system in ("ts", "cts"):
        flags["teacher_folder"] = teacher
    return flags


def _write_samples(folder):
    """Write labels of SpeechBrain's sample recordings, and the small random networks that the rows name."""
    (folder / "annotation").mkdir(parents=True, exist_ok=True)
    words = iter(TINY_WORDS * 10)
    for split, durations in _DURATIONS_S.items():
        rows = []
        for at, (name, duration) in enumerate(durations.items()):
            labels = (1 + at % 4, 2 + at // 2 % 3, 4 - at % 3)
            sentence = " ".join(next(words) for _ in range(5))
            rows.append((name, duration, f"$data_root/{name}.wav", name[:4], "", *labels, sentence, ""))
        write_csv(folder / "annotation" / f"{split}.csv", COLUMNS, rows)
    save_tiny_ssl(folder / "hubert")
    for name in ("hubert_large", "wav2vec2_base", "wav2vec2_large"):
        save_tiny_ssl(folder / name, *name.split("_"))
    save_tiny_bert(folder / "bert")
    for name in ("cpc.pt", "modified_cpc.pt"):
        save_tiny_cpc(folder / name)
    save_word_vectors(folder / "word_vectors.txt")


def main():
    """Write the tree that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="where to write")
    parser.add_argument("--source", type=Path, help="a checkout of SpeechBrain, for the rows of its other recipes")
    arguments = parser.parse_args()
    incomplete = compose(arguments.out, arguments.source)
    print(f"wrote {', '.join(recipe.there for recipe in RECIPES)} and their rows and samples to {arguments.out}")
    if incomplete:
        print(
            f"{' and '.join(incomplete)} lack SpeechBrain's own rows: before they replace its files, compose once more "
            "with --source and a checkout of it."
        )


if __name__ == "__main__":
    with plain_errors():
        main()
