"""What is proposed to SpeechBrain: the tree as such, and by SpeechBrain's own checks where its source is at hand."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_ts_lobes.settings import read_settings
from tests.integration.programs import ROOT, run_warm
from tools.speechbrain_pr.check import MAX_BYTES, consistency, lay_over, lint
from tools.speechbrain_pr.compose import AUDIO, LICENCE, RECIPES, SAMPLES, compose

THEIRS = "Emotion_recognition,IEMOCAP,recipes/IEMOCAP/other/train.py,recipes/IEMOCAP/other/train.yaml,,,,,,,"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Compose the tree where SpeechBrain already has rows of one of the corpora."""
    out = tmp_path_factory.mktemp("speechbrain")
    rows = out / "tests" / "recipes" / "IEMOCAP.csv"
    rows.parent.mkdir(parents=True)
    head = (ROOT / "tests" / "recipes" / "IEMOCAP.csv").read_text().splitlines()[0]
    rows.write_text(f"{head}\n{THEIRS}\n")
    assert compose(out) == ["tests/recipes/LibriSpeech.csv"]
    return out


def read_rows(tree):
    for path in sorted((tree / "tests" / "recipes").glob("*.csv")):
        with open(path, encoding="utf-8") as file:
            yield from (row for row in csv.DictReader(file) if "/other/" not in row["Script_file"])


def written(tree, ending=""):
    folders = [tree / "recipes" / recipe.there for recipe in RECIPES] + [tree / SAMPLES]
    return [path for folder in folders for path in folder.rglob(f"*{ending}") if path.is_file()]


def test_rows_of_others_stay_and_ours_come_once(tree):
    before = {path: path.read_bytes() for path in tree.rglob("*.csv")}
    compose(tree)
    assert {path: path.read_bytes() for path in tree.rglob("*.csv")} == before
    assert (tree / "tests" / "recipes" / "IEMOCAP.csv").read_text().splitlines()[1] == THEIRS


def test_the_papers_systems_go_along_and_no_others(tree):
    rows = list(read_rows(tree))
    assert len(rows) == 14 + 14 + 1
    here = read_settings(ROOT / "recipes" / "MSP-Podcast" / "hparams" / "cts.yaml")["rows"]
    for corpus in ("MSP-Podcast", "IEMOCAP"):
        folder = tree / "recipes" / corpus / "emotion_regression" / "teacher_student" / "hparams"
        assert {path.stem for path in folder.iterdir()} == set(here)
    for row in rows:
        names = (row[column] for column in ("Script_file", "Hparam_file", "Data_prep_file", "Readme_file"))
        assert all((tree / name).is_file() for name in names if name)
        assert "--device" not in row["test_debug_flags"]  # which the runner gives
        sources = re.findall(rf"{SAMPLES}/\S+", row["test_debug_flags"])
        assert all((tree / source).exists() for source in sources)


def test_scripts_name_the_keys_of_their_hparams(tree):
    for row in read_rows(tree):
        hparams = (tree / row["Hparam_file"]).read_text()
        script = (tree / row["Script_file"]).read_text()
        referred = set(re.findall(r"<(\w+)", hparams)) | {"__set_seed"}
        unnamed = [
            key for key in set(read_settings(tree / row["Hparam_file"])) - referred if f'["{key}"]' not in script
        ]
        assert not unnamed, row["Hparam_file"]


def test_keys_are_defined_before_they_are_referred_to(tree):
    for path in written(tree, ".yaml"):
        lines = path.read_text().splitlines()
        keys = {line.split(":")[0]: at for at, line in reversed(list(enumerate(lines))) if re.match(r"\w+:", line)}
        for at, line in enumerate(lines):
            assert all(keys[key] < at for key in re.findall(r"<(\w+)[>.]", line.split("#")[0])), f"{path}: {line}"


def test_files_have_a_licence_and_are_small(tree):
    assert all(path.stat().st_size <= MAX_BYTES for path in written(tree))
    for path in written(tree, ".py") + written(tree, ".yaml"):
        assert path.read_text().removeprefix("#!/usr/bin/env python3\n").startswith(LICENCE)


def test_the_readme_has_the_papers_figures_and_its_links_lead_somewhere(tree):
    for path in written(tree, "README.md"):
        text = path.read_text()
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
        assert all((path.parent / link).is_file() for link in links)
        assert "{" not in text
    text = (tree / "recipes" / RECIPES[0].there / "README.md").read_text()
    assert "| cts.yaml | 0.757 / 0.627 / 0.671 | – |" in text


def test_what_is_handed_over_makes_the_same_run(tree, tmp_path):
    system = "hubert_base"
    folder, random = tmp_path / "audio", np.random.default_rng(0)
    folder.mkdir()
    for path in (tree / SAMPLES / "annotation").glob("*.csv"):
        with open(path, encoding="utf-8") as file:
            for row in csv.DictReader(file):
                samples = random.normal(0, 0.1, int(16000 * float(row["duration"])))
                soundfile.write(folder / Path(row["wav"]).name, samples, 16000)
    recipe = RECIPES[0]
    hparams = f"recipes/{recipe.there}/hparams/{system}.yaml"
    [row] = [row for row in read_rows(tree) if row["Hparam_file"] == hparams]
    flags = row["test_debug_flags"].replace(AUDIO, str(folder)).replace(SAMPLES, str(tree / SAMPLES))
    flags = [flag for flag in shlex.split(flags) if not flag.startswith("--results_folder")]
    scores = []
    for place in (tree / "recipes" / recipe.there, ROOT / "recipes" / recipe.here):
        out = tmp_path / f"results{len(scores)}"
        script, hparams = place / Path(row["Script_file"]).name, place / "hparams" / f"{system}.yaml"
        run_warm(script, hparams, *flags, f"--results_folder={out}", "--device=cpu")
        [metrics] = out.rglob("metrics.json")
        scores.append(json.loads(metrics.read_text())["test"])
    assert scores[0] == scores[1]


@pytest.fixture(scope="module")
def source():
    """Find SpeechBrain's source with its tests: a checkout, or else its released source package."""
    if checkout := os.environ.get("SPEECHBRAIN_SOURCE"):
        return Path(checkout)
    name = f"speechbrain-{version('speechbrain')}"
    folder = Path(tempfile.gettempdir(), f"{name}-source")
    if not list(folder.glob("*.tar.gz")):
        command = ["pip", "download", "--quiet", "--retries=0", "--timeout=10", "--no-deps", "--no-binary=:all:"]
        command += [f"--dest={folder}", name.replace("-", "==")]
        try:
            subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, timeout=60)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pytest.skip("needs SpeechBrain's tests: set SPEECHBRAIN_SOURCE to a checkout; PyPI can't be reached")
    [package] = folder.glob("*.tar.gz")
    with tarfile.open(package) as archive:
        if f"{name}/tests/consistency/test_yaml.py" not in archive.getnames():
            pytest.skip(f"needs SpeechBrain's tests: set SPEECHBRAIN_SOURCE to a checkout; {package.name} has none")
        archive.extractall(folder, filter="data")
    return folder / name


def test_speechbrains_own_checks_pass(source, tmp_path):
    out, merged = tmp_path / "out", tmp_path / "merged"
    assert compose(out, source) == []
    lay_over(out, source, merged)
    result = consistency(merged)
    assert "6 passed" in result.stdout.splitlines()[-1], result.stdout
    assert not any(lint(out, merged).values())
