import re

import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.report.strangers import Facts, read_facts, read_predictions


def write(path, text):
    path.write_text(text)
    return path


def test_predictions_of_anybody_are_read(tmp_path):
    path = write(tmp_path / "p.csv", "FileName,EmoDom,EmoVal,EmoAct\nMSP_1.wav,3,2,1\n audio/MSP_2.WAV ,6,5,4.5\n")
    first, second = read_predictions(path)
    assert (first.id, first.line, first.prediction) == ("MSP_1", 2, (1, 2, 3))
    assert (second.id, second.line, second.prediction) == ("MSP_2", 3, (4.5, 5, 6))
    assert (first.split, first.label, first.speaker) == ("", None, None)


def test_labels_speaker_and_split_are_read_where_they_are(tmp_path):
    header = "id,split,spk_id,arousal,valence,dominance,label_activation,label_valence,label_dominance"
    [row] = read_predictions(write(tmp_path / "p.csv", f"{header}\na,test1,unknown,1,2,3,4,5,6\n"))
    assert (row.split, row.speaker, row.label) == ("test1", "Unknown", (4, 5, 6))


def test_facts_of_a_corpus_and_of_a_manifest_are_read(tmp_path):
    consensus = (
        "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\na.wav,H,1,2,3,7,Male,Test1\nb.wav,,,,,,,\n"
    )
    manifest = "ID,duration,wav,spk_id,gender,activation,valence,dominance,transcript,emotion\nc,2.5,x,9,,4,5,6,,N\n"
    facts = read_facts([write(tmp_path / "consensus.csv", consensus), write(tmp_path / "manifest.csv", manifest)])
    assert facts == {
        "a": Facts((1, 2, 3), "7", "Male", None, "H", "Test1"),
        "b": Facts(None, "Unknown", None, None, None, None),
        "c": Facts((4, 5, 6), "9", None, 2.5, "N", None),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "p.csv has no utterances."),
        (
            "id,valence,dominance\na,1,2\n",
            "p.csv, line 1: no column activation (or emoact, arousal); it has id, valence,",
        ),
        ("id,activation,valence,dominance\na,1,2,x\n", "p.csv, line 2: the dominance of a is 'x', not a number."),
        ("id,activation,valence,dominance\na,1,2,nan\n", "line 2: the dominance of a is 'nan'"),
        ("id,activation,valence,dominance\na,1,2,3\na.wav,1,2,3\n", "p.csv, lines 2 and 3: a occurs twice; keep one."),
        ("id,activation,valence,dominance\n,1,2,3\n", "p.csv, line 2: no id; name the utterance."),
        (
            "id,activation,valence,dominance,label_activation,label_valence,label_dominance\na,1,2,3,4,,6\n",
            "line 2: the label_valence of a is '', not a number.",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        read_predictions(write(tmp_path / "p.csv", text))


def test_an_utterance_in_two_files_of_labels_is_refused(tmp_path):
    paths = [write(tmp_path / name, "id,activation,valence,dominance\na,1,2,3\n") for name in ("one.csv", "two.csv")]
    with pytest.raises(InputError, match="two.csv, line 2: a is in another --labels file, too; keep one"):
        read_facts(paths)
