"""`ser-ts evaluate`: how well a student does on anybody's recordings."""

import csv

import numpy as np
import pytest
import soundfile
import torch

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.cli import main
from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results import metrics
from ser_ts_lobes.student.evaluation import (
    LabelledTable,
    group_table,
    read_table,
    robustness_table,
    score_table,
)
from ser_ts_lobes.student.inference import EmotionRegressor
from ser_ts_lobes.student.robustness import CHANGES
from tests.tiny_student import save_tiny_student

HEADER = "wav,spk_id,gender,activation,valence,dominance\n"


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """Write twelve clips of noise below audio/ and a table of them with labels; go there."""
    random = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    rows = []
    for i in range(12):
        seconds, loudness = random.uniform(0.3, 1), random.uniform(0.01, 0.3)
        soundfile.write(tmp_path / "audio" / f"{i}.wav", random.normal(0, loudness, round(seconds * 16000)), 16000)
        labels = ",".join(f"{value:.2f}" for value in random.uniform(1, 7, 3))
        rows.append(f"{i}.wav,s{i % 3},{'fm'[i % 2]},{labels}\n")
    (tmp_path / "labels.csv").write_text(HEADER + "".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cells(text):
    """Split a Markdown table's lines into cells."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_what_is_printed_is_what_predict_file_says(student_folder, student, recordings, capsys):
    arguments = ["--audio", "audio", "--by", "gender", "--out", "p.csv"]
    assert main(["evaluate", student_folder, "labels.csv", *arguments]) == 0
    table = read_table("labels.csv", (1, 7), "audio")
    predictions = np.array([student.predict_file(path) for path in table.paths])
    overall, by_gender = capsys.readouterr().out.strip().split("\n\n")
    header, _, ccc, rho, rmse, bias = cells(overall)
    assert header == ["labels: 12 recordings, intervals over recordings", *DIMENSIONS]
    low, high = metrics.bootstrap_ci(predictions, table.labels)
    for j, (p, y) in enumerate(zip(predictions.T, table.labels.T, strict=True)):
        value = 2 * np.cov(p, y, ddof=0)[0, 1] / (p.var() + y.var() + (p.mean() - y.mean()) ** 2)
        found, interval = ccc[j + 1].split(" ", 1)
        assert float(found) == pytest.approx(value, abs=2e-3)
        assert [float(end) for end in interval.strip("[]").split(",")] == pytest.approx([low[j], high[j]], abs=2e-3)
        assert float(rho[j + 1]) == pytest.approx(np.corrcoef(p, y)[0, 1], abs=2e-3)
        assert float(rmse[j + 1]) == pytest.approx(np.sqrt(((p - y) ** 2).mean()), abs=2e-3)
        assert float(bias[j + 1]) == pytest.approx(p.mean() - y.mean(), abs=2e-3)
    women = slice(0, None, 2)
    expected = metrics.ccc(predictions[women], table.labels[women])
    assert cells(by_gender)[2] == ["f", "6", *(f"{value:.3f}" for value in expected)]
    with open("p.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    written = [[float(row[name]) for name in DIMENSIONS] for row in rows]
    np.testing.assert_allclose(written, predictions, atol=1e-3)
    assert [float(row["label_valence"]) for row in rows] == table.labels[:, 1].tolist()
    assert {row["split"] for row in rows} == {"labels"} and rows[4]["spk_id"] == "s1"


def test_a_manifest_is_a_table(recordings):
    columns = "ID,duration,wav,spk_id,gender,activation,valence,dominance,transcript,emotion"
    (recordings / "test1.csv").write_text(f"{columns}\na,1.0,$data_root/3.wav,nan,m,1,2,3,hello,N\n")
    table = read_table("test1.csv", (1, 7), "audio")
    assert [str(path) for path in table.paths] == ["audio/3.wav"] and table.speakers == ["Unknown"]
    assert table.ids == ["a"]
    assert table.labels.tolist() == [[1, 2, 3]]


def test_other_columns_and_scales_are_brought_to_the_students(recordings):
    (recordings / "other.csv").write_text("file,arousal,pleasure,who\nx/a.wav,-1,0.5,Ann\nx/b.wav,1,0,Bob\n")
    columns = {"wav": "file", "activation": "arousal", "valence": "pleasure", "spk_id": "who"}
    table = read_table("other.csv", (1, 7), columns=columns, scale=(-1, 1), by=["spk_id"])
    np.testing.assert_allclose(table.labels, [[1, 5.5, np.nan], [7, 4, np.nan]])
    assert table.dimensions == [0, 1] and table.speakers == ["Ann", "Bob"]
    assert [str(path) for path in table.paths] == table.ids == ["x/a.wav", "x/b.wav"]
    assert table.groups == {"spk_id": ["Ann", "Bob"]}


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        (HEADER, {}, "has no recordings"),
        ("wav,happiness\na.wav,1\n", {}, "none of the columns activation, valence, dominance"),
        ("file,activation\na.wav,1\n", {}, "no column wav"),
        (HEADER + "a.wav,s,f,1,8,3\n", {}, "line 2: valence 8 is not within 1 to 7; say the table's own scale"),
        (HEADER + "a.wav,s,f,1,,3\n", {}, "line 2: valence is '', not a number"),
        (HEADER + "a.wav,s,f,1,2,3\n", {"columns": {"arousal": "activation"}}, "--columns names arousal; it can name"),
        (HEADER + "a.wav,s,f,1,2,3\n", {"columns": {"activation": "arousal"}}, "no column arousal"),
        (HEADER + "a.wav,s,f,1,2,3\n", {"by": ["age"]}, "no column age"),
        (HEADER + "a.wav,s,f,1,2,3\n", {"scale": (5, 1)}, "--scale 5,1 is no scale"),
    ],
)
def test_a_table_that_can_not_be_used_is_one_sentence(tmp_path, text, options, sentence):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_table(tmp_path / "t.csv", (1, 7), **options)


def test_a_recording_that_can_not_be_heard_is_named(student_folder, recordings):
    (recordings / "audio" / "4.wav").unlink()
    with pytest.raises(SystemExit, match=r"1 of 12 recordings can't be heard; the first: .*4\.wav .*missing"):
        main(["evaluate", student_folder, "labels.csv", "--audio", "audio"])


def test_groups_too_small_to_score_have_a_dash():
    labels = np.array([[1.0, 2, 3], [2, 3, 4], [3, 5, 4]])
    table = LabelledTable(["a", "b", "c"], ["x", "x", "y"], labels, {}, [])
    rows = cells(group_table("who", ["x", "x", ""], table, labels + 0.5))
    assert rows[2] == ["Unknown", "1", "–", "–", "–"] and rows[3][:2] == ["x", "2"]
    assert float(rows[3][2]) == pytest.approx(2 * 0.25 / (0.5 + 0.25), abs=1e-3)


def test_intervals_are_over_speakers_where_there_are_enough():
    random = np.random.default_rng(0)
    labels, speakers = random.uniform(1, 7, (60, 3)), [f"s{i % 12}" for i in range(60)]
    text = score_table(
        "set", LabelledTable(["a"] * 60, speakers, labels, {}, []), labels + random.normal(0, 1, (60, 3))
    )
    assert "60 recordings, intervals over speakers" in text


def test_each_change_is_scored_on_the_changed_recordings(student, recordings):
    table = read_table("labels.csv", (1, 7), "audio")
    clips = [read_audio(path) for path in table.paths]
    plain = np.array([student.predict_batch(clip[None])[0].tolist() for clip in clips])
    header, _, unchanged, *rows = cells(robustness_table(student, table, plain, vad=False, batch_size=5))
    assert header == ["recordings", *DIMENSIONS] and unchanged[0] == "as they are"
    assert [row[0] for row in rows] == list(CHANGES)
    softer = np.array([student.predict_batch(torch.as_tensor(clip[None] / 10))[0].tolist() for clip in clips])
    for j in range(3):
        assert unchanged[j + 1] == f"{metrics.ccc(plain, table.labels)[j]:.3f} (0.00)"
        ccc, difference = rows[2][j + 1].split(" ")
        assert float(ccc) == pytest.approx(metrics.ccc(softer, table.labels)[j], abs=2e-3)
        assert float(difference.strip("()")) == pytest.approx(np.abs(softer - plain)[:, j].mean(), abs=6e-3)


def test_without_the_silence_nothing_is_lost_by_it(tiny_hubert, tmp_path, spoken):
    student = EmotionRegressor.from_pretrained(save_tiny_student(tmp_path / "student", tiny_hubert, "transformer"))
    cut = np.pad(spoken, 8000)  # as wide as whoever cuts a corpus, or wider
    soundfile.write(tmp_path / "a.wav", cut, 16000)
    soundfile.write(tmp_path / "b.wav", cut / 2, 16000)
    table = LabelledTable(
        [tmp_path / "a.wav", tmp_path / "b.wav"], ["x", "y"], np.array([[1.0] * 3, [2.0] * 3]), {}, []
    )

    def difference(vad):
        plain = np.array([prediction.emotion for prediction in student.predict_files(table.paths, vad=vad)])
        behind = cells(robustness_table(student, table, plain, vad, batch_size=2))[3]
        assert behind[0] == "2 s of silence behind"
        return max(float(cell.split("(")[1].strip(")")) for cell in behind[1:])

    assert difference(vad=True) < 0.2 * difference(vad=False)


@pytest.mark.parametrize("text", ["1", "a,b", "1,2,3"])
def test_a_scale_is_two_numbers(text, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "nowhere", "t.csv", "--scale", text])
    assert "should be LOW,HIGH" in capsys.readouterr().err
