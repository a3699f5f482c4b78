"""The command `ser-ts`."""

import csv
import os
import subprocess
import sys

import pytest

from ser_ts_lobes import __version__
from ser_ts_lobes.cli import main
from tests.unit.data.test_transcription import ctc, manifests  # noqa: F401  (fixtures)


def test_help_and_version(capsys):
    for arguments, said in (["--version"], f"ser-ts {__version__}"), (["--help"], "transcribe"):
        with pytest.raises(SystemExit, match="^0$"):
            main(arguments)
        assert said in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["transcribe"], ["transcribe", "folder", "--batch-size", "many"]])
def test_wrong_arguments(arguments):
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)


def test_help_does_not_wait_for_heavy_imports():
    code = "import sys, ser_ts_lobes.cli; sys.exit('torch' in sys.modules or 'speechbrain' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_input_is_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: .* has no manifests .*prepare"):
        main(["transcribe", str(tmp_path)])


def test_interruption(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ser_ts_lobes.data.transcription.transcribe", interrupted)
    assert main(["transcribe", "folder"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_transcribe_with_a_model_of_the_hub(ctc, manifests, tmp_path):  # noqa: F811
    """The hub's cache has the model under its commit, which becomes the revision."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "cache" / "models--someone--tiny-asr"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    ctc.rename(cached / "snapshots" / commit)
    out = tmp_path / "out.csv"
    subprocess.run(
        [sys.executable, "-m", "ser_ts_lobes.cli", "transcribe", manifests, "--asr", "someone/tiny-asr"]
        + ["--out", out, "--device", "cpu", "--batch-size", "2", "--data-root", tmp_path],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert {(row["model"], row["revision"]) for row in rows} == {("someone/tiny-asr", commit)}
