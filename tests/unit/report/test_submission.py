import re

import numpy as np
import pytest

from ser_ts_lobes.cli import main
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.report.submission import check_submission, read_names, submit
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.brains import Outputs
from tests.unit.report import runs

HEADER = "FileName,EmoAct,EmoVal,EmoDom"


@pytest.fixture
def run(tmp_path):
    """Give a run that has also tested a set without labels."""
    run = runs.write_run(tmp_path, runs.write_corpus(tmp_path), "ft", 1)
    said = RunFolder(run.path).predictions("test1")
    secret = ["MSP-PODCAST_test3_0002", "MSP-PODCAST_test3_0001"]
    prediction = np.array([[0.5, 4.0, 8.25], [1.25, 2.5, 3.0]])
    outputs = {
        "test1": Outputs(said.ids, np.zeros((len(said.ids), 2)), said.prediction, said.label),
        "test3": Outputs(secret, np.zeros((2, 2)), prediction, np.full((2, 3), np.nan)),
    }

    class Manifest:
        def __init__(self, ids, labelled):
            self.utterances, self.labelled = {id: {"spk_id": "Unknown"} for id in ids}, labelled

        def fingerprints(self, reads):
            return {}

    run.write(
        outputs, {"test1": Manifest(said.ids, True), "test3": Manifest(secret, False)}, False, system="ft", seed=1
    )
    return run


def test_a_run_becomes_a_submission_on_the_scale(run, tmp_path, capsys):
    out = tmp_path / "submission.csv"
    assert main(["submit", str(run.path), "--out", str(out)]) == 0
    assert out.read_text().splitlines() == [
        HEADER,
        "MSP-PODCAST_test3_0001.wav,1.250000,2.500000,3.000000",
        "MSP-PODCAST_test3_0002.wav,1.000000,4.000000,7.000000",
    ]
    said = capsys.readouterr().out
    assert "2 utterances; 1 were beyond the scale and are at its end. Whether all are there was not checked" in said


def test_what_there_is_to_predict_is_a_folder_or_a_list(run, tmp_path, capsys):
    audio = tmp_path / "Audios" / "Test3"
    audio.mkdir(parents=True)
    for number in (1, 2):
        (audio / f"MSP-PODCAST_test3_000{number}.wav").touch()
    (audio / "notes.txt").touch()
    names = tmp_path / "names.txt"
    names.write_text('FileName,x\n"MSP-PODCAST_test3_0001.wav",1\nMSP-PODCAST_test3_0002\n\n')
    assert read_names(audio.parent) == read_names(names)
    submit(run.path, tmp_path / "out.csv", files=audio)
    main(["submit", str(tmp_path / "out.csv"), "--check", "--files", str(names)])
    assert capsys.readouterr().out.count("all that there have to be") == 2
    (audio / "MSP-PODCAST_test3_0003.wav").touch()
    with pytest.raises(InputError, match="out.csv lacks 1 utterances: MSP-PODCAST_test3_0003. Predict just"):
        submit(tmp_path / "out.csv", "", files=audio, check=True)
    (audio / "MSP-PODCAST_test3_0002.wav").unlink()
    (audio / "MSP-PODCAST_test3_0003.wav").unlink()
    with pytest.raises(InputError, match="has, and should not, 1 utterances: MSP-PODCAST_test3_0002"):
        submit(tmp_path / "out.csv", "", files=audio, check=True)


def test_a_csv_of_anybody_becomes_a_submission(tmp_path):
    (tmp_path / "p.csv").write_text("id,split,arousal,valence,dominance\na,test3,1,2,3\nb,test1,1,2,3\n")
    submit(tmp_path / "p.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == f"{HEADER}\na.wav,1.000000,2.000000,3.000000\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the columns are missing; they have to be FileName,EmoAct,EmoVal,EmoDom."),
        ("FileName,EmoAct,EmoDom,EmoVal\na.wav,1,2,3\n", "line 1: the columns are FileName,EmoAct,EmoDom,EmoVal"),
        (f"{HEADER}\n", "has no utterances"),
        (f"{HEADER}\na,1,2,3\n", "line 2: the FileName is 'a'; name the file alone, such as a.wav."),
        (f"{HEADER}\nx/a.wav,1,2,3\n", "line 2: the FileName is 'x/a.wav'"),
        (f"{HEADER}\na.wav,1,2,7.1\n", "line 2: the EmoDom of a.wav is '7.1', not a number from 1 to 7."),
        (f"{HEADER}\na.wav,0.99,2,7\n", "line 2: the EmoAct of a.wav is '0.99'"),
        (f"{HEADER}\na.wav,1,2,3\nb.wav,1,,3\n", "line 3: the EmoVal of b.wav is ''"),
        (f"{HEADER}\na.wav,1,2,3\na.wav,1,2,3\n", "lines 2 and 3: FileName a.wav occurs twice"),
        (f"{HEADER}\na.wav,1,2\n", "line 2: not the 4 values of the header."),
    ],
)
def test_what_would_not_be_taken_is_said_with_its_line(tmp_path, text, said):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(said)):
        check_submission(tmp_path / "s.csv")


def test_both_ends_of_the_scale_are_taken(tmp_path):
    (tmp_path / "s.csv").write_text(f"{HEADER}\na.wav,1,7,1.0\n")
    assert check_submission(tmp_path / "s.csv", ["a"]) == 1


def test_a_set_that_is_not_there_is_said(run, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {run.path} has predicted no test2: name another --split"):
        main(["submit", str(run.path), "--split", "test2", "--out", str(tmp_path / "out.csv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="names no recording: give the folder"):
        read_names(tmp_path / "empty")
    (tmp_path / "p.csv").write_text("id,split,arousal,valence,dominance\na,test1,1,2,3\n")
    with pytest.raises(InputError, match="p.csv has no predictions of test3: name another --split"):
        submit(tmp_path / "p.csv", tmp_path / "out.csv")
