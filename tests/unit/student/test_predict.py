"""`ser-ts predict`: what it prints, draws and answers to scripts."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import soundfile
from PIL import Image

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.cli import main
from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.student.inference import EmotionRegressor, Timeline
from ser_ts_lobes.student.predict import find_audio, plot_timeline


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """Write b.wav (1 s), a.flac (0.5 s) and, below, c.ogg (2 s); go there."""
    (tmp_path / "below").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 32000)
    soundfile.write(tmp_path / "b.wav", noise[:16000], 16000)
    soundfile.write(tmp_path / "a.flac", noise[:8000], 16000)
    soundfile.write(tmp_path / "below" / "c.ogg", noise, 16000)
    (tmp_path / "notes.txt").write_text("not audio")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predicted(student_folder, path):
    return EmotionRegressor.from_pretrained(student_folder).predict_file(path)


def test_a_table_of_files(student_folder, recordings, capsys):
    assert main(["predict", student_folder, "b.wav", "a.flac"]) == 0
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["path", *DIMENSIONS] and [row[0] for row in rows] == ["b.wav", "a.flac"]
    np.testing.assert_allclose([float(value) for value in rows[1][1:]], predicted(student_folder, "a.flac"), atol=2e-4)


def test_csv_of_a_folder_and_all_below(student_folder, recordings, capsys):
    assert main(["predict", student_folder, ".", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["path"] for row in rows] == ["a.flac", "b.wav", "below/c.ogg"]
    found = [float(rows[2][dimension]) for dimension in DIMENSIONS]
    np.testing.assert_allclose(found, predicted(student_folder, "below/c.ogg"), atol=2e-4)


def test_json_of_timelines(student_folder, recordings, capsys):
    arguments = ["predict", student_folder, "b.wav", "below/c.ogg", "--timeline", "--window", "1", "--hop", "0.5"]
    assert main([*arguments, "--no-vad", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    times = [(row["path"], row["start_s"], row["end_s"]) for row in rows]
    assert times == [("b.wav", 0, 1), ("below/c.ogg", 0, 1), ("below/c.ogg", 0.5, 1.5), ("below/c.ogg", 1, 2)]
    found = [rows[0][dimension] for dimension in DIMENSIONS]
    np.testing.assert_allclose(found, predicted(student_folder, "b.wav"), atol=1e-4)


@pytest.mark.parametrize("timeline", [[], ["--timeline"]])
def test_a_bad_file_is_reported_and_the_others_go_on(student_folder, recordings, capsys, timeline):
    assert main(["predict", student_folder, "notes.txt", "b.wav", "gone.wav", "--format", "csv", *timeline]) == 1
    captured = capsys.readouterr()
    assert [row["path"] for row in csv.DictReader(io.StringIO(captured.out))] == ["b.wav"]
    assert captured.err.count("error: ") == 2
    assert "notes.txt can't be used (unreadable)" in captured.err and "gone.wav can't be used (missing)" in captured.err


def test_nothing_but_bad_files_still_prints_a_header(student_folder, recordings, capsys):
    assert main(["predict", student_folder, "gone.wav", "--format", "csv"]) == 1
    assert capsys.readouterr().out == "path,activation,valence,dominance\n"


def test_standard_input(student_folder, recordings, capsys, monkeypatch):
    with open("a.flac", "rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        assert main(["predict", student_folder, "-", "b.wav", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in rows] == ["-", "b.wav"]
    np.testing.assert_allclose(
        [rows[0][dimension] for dimension in DIMENSIONS], predicted(student_folder, "a.flac"), atol=1e-4
    )


def test_standard_input_has_a_limit(student_folder, monkeypatch):
    monkeypatch.setattr("ser_ts_lobes.student.predict.MAX_STDIN_BYTES", 2**20)
    with open("/dev/zero", "rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        with pytest.raises(SystemExit, match="Standard input holds more than 1048576 bytes"):
            main(["predict", student_folder, "-"])


def test_an_error_in_standard_input_names_it(student_folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"not audio")))
    assert main(["predict", student_folder, "-"]) == 1
    assert "standard_input can't be used (unreadable)" in capsys.readouterr().err


def test_folders_are_searched_and_other_names_kept(recordings):
    assert find_audio(["gone.wav", "-", "below", "notes.txt"]) == ["gone.wav", "-", "below/c.ogg", "notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "b.wav"], "neither a folder nor a name"),
        (["MODEL", "empty"], "The folder empty holds no audio files"),
        (["MODEL", ".", "--plot", "a.png"], "--plot draws one recording, and 3 are given"),
        (
            ["nowhere", "b.wav", "--plot", "no/where.png"],
            "--plot no/where.png can't be written",
        ),
        (["nowhere", "b.wav", "--plot", "below"], "--plot below: give a name that ends in .png, .svg, .pdf"),
        (["nowhere", "b.wav", "--plot", "a.jpg"], "--plot a.jpg: give a name that ends in .png, .svg, .pdf"),
        (["nowhere", "b.wav", "--window", "2"], "--window and --hop are of --timeline"),
        (["nowhere", "b.wav", "--hop", "2"], "--window and --hop are of --timeline"),
        (["nowhere", "b.wav", "--segments", "a.csv", "--timeline"], "--segments and --timeline both say"),
        (["nowhere", "b.wav", "--embeddings", "e.npz", "--timeline"], "--embeddings are of whole recordings"),
        (["nowhere", "b.wav", "--embeddings", "e.txt"], "give a name that ends in .npz"),
        (["nowhere", "b.wav", "--embeddings", "gone/e.npz"], "can't be written"),
        (["MODEL", "b.wav", "--device", "cuda:99"], "The device 'cuda:99' can't be used"),
    ],
)
def test_what_can_not_begin_is_one_sentence(student_folder, recordings, arguments, said):
    (recordings / "empty").mkdir()
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        main(["predict", *[student_folder if argument == "MODEL" else argument for argument in arguments]])


@pytest.mark.parametrize("arguments", [[], ["b.wav", "--format", "xml"], ["b.wav", "--batch-size", "0"]])
def test_wrong_arguments(student_folder, arguments, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(["predict", student_folder, *arguments])
    assert "--batch-size" not in arguments or "'0' should be a whole number from 1 on" in capsys.readouterr().err


def test_what_is_wrong_is_said_before_networks_are_imported():
    code = """
import sys
from ser_ts_lobes.cli import main
from ser_ts_lobes.data.audio import read_audio
try:
    main(["predict", "nowhere", "a.wav", "--plot", "/no/where.png"])
except SystemExit as end:
    print(end)
print(sorted({"torch", "matplotlib", "scipy"} & set(sys.modules)))
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output == (
        "error: --plot /no/where.png can't be written: give a file in a folder that is there and is yours.\n[]\n"
    )


# What a HuBERT that hears a clip has no use for; much else is imported by transformers and SpeechBrain themselves.
NOT_OF_A_HUBERT = {
    *("matplotlib", "gradio", "onnx", "onnxruntime", "ser_ts_lobes.training.brains"),
    *(f"transformers.models.{kind}.modeling_{kind}" for kind in ("bert", "wav2vec2", "wavlm", "whisper")),
    "transformers.models.whisper.feature_extraction_whisper",
    "transformers.generation.utils",
}


def test_who_predicts_waits_for_nothing_that_the_student_does_without(student_folder, recordings):
    code = f"""
import sys
from ser_ts_lobes.cli import main
from ser_ts_lobes.data.audio import read_audio
main(["predict", {student_folder!r}, "b.wav"])
print(sorted({NOT_OF_A_HUBERT} & set(sys.modules)))
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.endswith("\n[]\n")


@pytest.mark.parametrize(("name", "begins"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml"), ("c.PDF", b"%PDF")])
def test_a_plot_is_what_its_name_says(recordings, name, begins):
    timeline = Timeline(np.arange(3.0), np.arange(3.0) + 4, np.full((3, 3), 4.0))
    plot_timeline(name, timeline, [1, 7], "A talk")
    assert (recordings / name).read_bytes().startswith(begins)


def test_progress_is_shown_to_who_watches(student_folder, recordings, capsys, monkeypatch):
    arguments = ["predict", student_folder, "below/c.ogg", "--timeline", "--window", "1", "--hop", "0.5", "--no-vad"]
    assert main(arguments) == 0 and "window" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(arguments) == 0
    assert "3/3" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(student_folder, recordings, capfd, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["predict", student_folder, "b.wav"]) == 0
    assert capfd.readouterr().err == ""


def test_a_plot_implies_the_timeline(student_folder, recordings, capsys):
    arguments = ["predict", student_folder, "below/c.ogg", "--window", "0.5", "--hop", "0.25", "--no-vad"]
    assert main([*arguments, "--plot", "c.png"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["path", "start_s", "end_s", *DIMENSIONS]
    image = np.asarray(Image.open("c.png").convert("RGB"))
    for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):  # one line a dimension
        assert (np.abs(image.astype(int) - colour).max(axis=-1) < 10).sum() > 200


def draw(monkeypatch, values, title="A talk"):
    """Draw a timeline of windows of 4 s, one each second; return the figure."""
    drawn = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: drawn.append(figure) or path.touch()
    )
    start = np.arange(float(len(values)))
    plot_timeline("a.png", Timeline(start, start + 4, values), [1, 7], title)
    return drawn[0]


def test_the_axes_of_a_plot_show_all_of_it(recordings, monkeypatch):
    values = np.random.default_rng(0).uniform(1, 7.5, (50, 3))
    figure = draw(monkeypatch, values)
    assert figure.get_suptitle() == "A talk" and [axis.get_ylabel() for axis in figure.axes] == list(DIMENSIONS)
    for j, axis in enumerate(figure.axes):
        assert axis.get_ylim() == (1, values.max()) and axis.get_xlim() == (0, 53)
        np.testing.assert_allclose(axis.lines[0].get_data(), [np.arange(50) + 2, values[:, j]])
    assert "seconds" in figure.axes[-1].get_xlabel()


def test_a_long_timeline_is_drawn_in_minutes_with_its_moving_average(recordings, monkeypatch):
    values = np.random.default_rng(0).uniform(1, 7, (900, 3))
    axis = draw(monkeypatch, values).axes[2]
    pale, bold = axis.lines[:2]
    np.testing.assert_allclose(pale.get_data(), [(np.arange(900) + 2) / 60, values[:, 2]])
    np.testing.assert_allclose(bold.get_ydata()[450], values[446:455, 2].mean())
    assert "minutes" in axis.get_xlabel() and "average of 9 windows" in axis.get_xlabel()


def test_where_nobody_speaks_a_timeline_has_no_values(student_folder, recordings, capsys):
    arguments = ["predict", student_folder, "b.wav", "--timeline", "--window", "0.5", "--hop", "0.5"]
    assert main([*arguments, "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["b.wav,0.00,0.50,,,", "b.wav,0.50,1.00,,,"]
    assert main([*arguments, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["valence"] is None


def test_without_a_detector_a_timeline_says_so_and_hears_all(student_folder, recordings, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["predict", student_folder, "b.wav", "--timeline", "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert "pip install silero-vad" in captured.err and ",," not in captured.out


@pytest.fixture
def another_student(student_folder, tmp_path):
    """Another seed's, so to say: with all label means moved by one."""
    folder = shutil.copytree(student_folder, tmp_path / "another")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["label_scale.mean"] += 1
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_several_students_give_their_mean_and_standard_deviation(student_folder, another_student, recordings, capsys):
    assert main(["predict", student_folder, another_student, "b.wav", "a.flac", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in rows] == ["b.wav", "a.flac"]
    for row in rows:
        both = np.array([predicted(folder, row["path"]) for folder in (student_folder, another_student)])
        np.testing.assert_allclose([row[name] for name in DIMENSIONS], both.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose([row[f"{name}_sd"] for name in DIMENSIONS], both.std(axis=0, ddof=1), atol=1e-4)
    assert main(["predict", student_folder, another_student, "b.wav", "--timeline", "--no-vad", "--format", "csv"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.endswith("dominance,activation_sd,valence_sd,dominance_sd")
    assert row.endswith(",0.7071" * 3)


def test_students_of_other_scales_are_not_averaged(student_folder, another_student, recordings):
    path = Path(another_student) / "config.json"
    config = json.loads(path.read_text())
    low, high = config["label_range"]
    path.write_text(json.dumps(config | {"label_range": [low, high + 2]}))
    with pytest.raises(SystemExit, match=f"another predicts from {low:g} to {high + 2:g}, .* their mean says nothing"):
        main(["predict", student_folder, another_student, "b.wav"])


def test_embeddings_are_written_of_what_could_be_heard(student_folder, recordings, capsys):
    assert main(["predict", student_folder, "b.wav", "notes.txt", "a.flac", "--embeddings", "e.npz"]) == 1
    with np.load("e.npz") as written:
        assert written["path"].tolist() == ["b.wav", "a.flac"]
        student = EmotionRegressor.from_pretrained(student_folder)
        for path, embedding in zip(written["path"], written["embedding"], strict=True):
            expected = student.encode_batch(read_audio(path).unsqueeze(0))
            np.testing.assert_allclose(embedding, expected[0, 0], atol=1e-5)


def test_segments_of_recordings(student_folder, recordings, capsys):
    (recordings / "turns.csv").write_text("path,end_s,start_s\nbelow/c.ogg,2,1.5\nb.wav,0.5,0\nbelow/c.ogg,1,0.25\n")
    arguments = ["predict", student_folder, "b.wav", "below/c.ogg", "--segments", "turns.csv", "--format", "json"]
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    found = [(row["path"], row["start_s"], row["end_s"]) for row in rows]
    assert found == [("b.wav", 0, 0.5), ("below/c.ogg", 1.5, 2), ("below/c.ogg", 0.25, 1)]
    part = read_audio("below/c.ogg")[24000:32000]
    expected = EmotionRegressor.from_pretrained(student_folder).predict_batch(part.unsqueeze(0))[0]
    np.testing.assert_allclose([rows[1][name] for name in DIMENSIONS], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "audio", "sentence"),
    [
        ("start_s,end_s\n0,x\n", ["b.wav"], "line 2: start_s and end_s are not both numbers"),
        ("start_s,end_s\n0,1\n", ["b.wav", "a.flac"], "no column path"),
        ("path,start_s,end_s\nc.wav,0,1\n", ["b.wav"], "line 2: c.wav is not among the recordings"),
        ("path,start_s,end_s\nb.wav,0,1\n", ["b.wav", "a.flac"], "has no segment of a.flac"),
    ],
)
def test_segments_that_can_not_be_read_are_refused_before_the_student(recordings, text, audio, sentence):
    (recordings / "turns.csv").write_text(text)
    with pytest.raises(SystemExit, match=sentence):
        main(["predict", "nowhere", *audio, "--segments", "turns.csv"])


def test_a_segment_behind_the_end_is_an_error_of_its_recording(student_folder, recordings, capsys):
    (recordings / "turns.csv").write_text("path,start_s,end_s\nb.wav,0.5,1.5\na.flac,0,0.5\n")
    assert main(["predict", student_folder, "b.wav", "a.flac", "--segments", "turns.csv"]) == 1
    captured = capsys.readouterr()
    assert "b.wav ends at 1.00 s, and a segment at 1.50 s" in captured.err and "a.flac" in captured.out


def test_clips_unlike_those_of_training_are_told(student_folder, recordings, capsys, tmp_path):
    folder = shutil.copytree(student_folder, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    config["training_durations_s"] = {"shortest": 0.7, "median": 1.0, "longest": 1.2}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["predict", str(folder), "b.wav"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["predict", str(folder), "b.wav", "a.flac"]) == 0
    assert "note: 1 of 2 recordings (first: a.flac) are shorter or longer than nearly all" in capsys.readouterr().err
    assert main(["predict", str(folder), "below/c.ogg", "--timeline", "--no-vad", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert [row["start_s"] for row in json.loads(captured.out)] == [0, 0.25, 0.5, 0.75, 1] and not captured.err
    assert main(["predict", str(folder), "below/c.ogg", "--timeline", "--no-vad", "--window", "2"]) == 0
    assert "Windows of 2 s are shorter or longer" in capsys.readouterr().err
