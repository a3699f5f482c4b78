"""From a trained run to a folder and to the Hub; the folder tells what the run told."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file

import ser_ts_lobes.student.export as export_module
from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.seals import seal
from ser_ts_lobes.student.export import export
from ser_ts_lobes.student.inference import EmotionRegressor
from ser_ts_lobes.student.model_card import make_card
from ser_ts_lobes.training.brains import StudentBrain
from ser_ts_lobes.training.datasets import load_manifests, make_datasets
from ser_ts_lobes.training.fitting import learn_from_training_set
from tests.fixtures_msp import write_msp_tree
from tests.integration.programs import ROOT
from tests.unit.training.test_datasets import msp_podcast_prepare

HPARAMS = ROOT / "recipes" / "MSP-Podcast" / "hparams" / "ft.yaml"
FILES = {
    "README.md",
    "app.py",
    "config.json",
    "custom_interface.py",
    "hyperparams.yaml",
    "model.safetensors",
    "modeling_student.py",
    "requirements.txt",
}
RUN_OPTS = {"device": "cpu", "noprogressbar": True}


def train(folder, speech_source, **options):
    """Train as the recipe does; paths of results are relative to the folder that it ran in."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        write_msp_tree("toy corpus", {"Train": 24, "Development": 8, "Test1": 8})
        overrides = {
            "data_folder": "toy corpus",
            "results_folder": "results",
            "speech_source": speech_source,
            "trainable_layers": 1,
            "number_of_epochs": 2,
            "batch_size": 8,
            "num_workers": 0,
            **options,
        }
        with open(HPARAMS, encoding="utf-8") as file:
            hparams = load_hyperpyyaml(file, overrides) | {"settings": {}}
        sb.create_experiment_directory(hparams["output_folder"], str(HPARAMS), overrides, save_env_desc=False)
        msp_podcast_prepare.prepare_msp_podcast(**hparams["prepare_opts"])
        manifests = load_manifests(hparams["manifest_folder"], hparams["data_folder"])
        learn_from_training_set(manifests["train"], hparams, RUN_OPTS)
        datasets = make_datasets(manifests, hparams, RUN_OPTS)
        brain = StudentBrain(hparams, RUN_OPTS, manifests)
        brain.train(datasets)
        brain.test(datasets)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def trained(tiny_hubert, tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained"), tiny_hubert)


@pytest.fixture(scope="module")
def run(trained):
    return trained / "results" / "ft" / "1986"


@pytest.fixture(scope="module")
def student_folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "my-student"
    export(run, out)
    return out


@pytest.fixture(scope="module")
def test_set(run):
    """Give the paths of the test set and what the run predicted, (8, 3)."""
    return read_tested(run)


def read_tested(run):
    with open(run / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = [str(run.parents[2] / "toy corpus" / "Audios" / f"{row['ID']}.wav") for row in rows]
    return paths, np.array([[float(row[dimension]) for dimension in DIMENSIONS] for row in rows])


def emotions(student, paths):
    return [prediction.emotion for prediction in student.predict_files(paths, batch_size=3)]


# ------------------------------------------------------------------ three ways to load


def test_the_safe_path_predicts_what_the_run_did(student_folder, test_set):
    paths, expected = test_set
    assert expected.std(axis=0).min() > 1e-3  # else equality would show nothing
    np.testing.assert_allclose(
        emotions(EmotionRegressor.from_pretrained(student_folder), paths), expected, rtol=0, atol=1e-4
    )


def test_adapters_are_merged_and_predict_what_the_run_did(tiny_hubert, tmp_path):
    run = train(tmp_path, tiny_hubert, lora_rank=2, encoder_lr=0.1) / "results" / "ft" / "1986"
    export(run, tmp_path / "student")
    paths, expected = read_tested(run)
    assert expected.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(
        emotions(EmotionRegressor.from_pretrained(tmp_path / "student"), paths), expected, rtol=0, atol=1e-4
    )
    exported = load_file(tmp_path / "student" / "model.safetensors")
    pretrained = load_speech_encoder(tiny_hubert).state_dict()
    learnt = {name for name, weight in pretrained.items() if not weight.equal(exported[f"speech_encoder.{name}"])}
    assert learnt == {f"model.encoder.layers.2.attention.{part}_proj.weight" for part in ("q", "k", "v", "out")}


def test_from_hparams_predicts_what_the_run_did(student_folder, test_set):
    paths, expected = test_set
    student = EmotionRegressor.from_hparams(str(student_folder), run_opts={"device": "cpu"})
    assert type(student) is EmotionRegressor
    np.testing.assert_allclose(emotions(student, paths), expected, rtol=0, atol=1e-4)


# Without the package and without the network: neither can be imported or used.
_STOCK = """
import json, socket, sys
import torch

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ser_ts_lobes", "tests"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def refuse(*arguments, **options):
    raise AssertionError("the network was used")

sys.meta_path.insert(0, Absent())
try:
    import ser_ts_lobes
    sys.exit("ser_ts_lobes can be imported")
except ModuleNotFoundError:
    pass
from speechbrain.inference.interfaces import foreign_class
from transformers import AutoModel
socket.socket.connect = socket.getaddrinfo = refuse
source, paths = json.loads(sys.argv[1])
student = foreign_class(
    source=source, pymodule_file="custom_interface.py", classname="EmotionRegressor", run_opts={"device": "cpu"}
)
timeline = student.predict_timeline(paths[0], 0.5, 0.25)
assert timeline.values.shape == (len(timeline.start_s), 3)
model = AutoModel.from_pretrained(source, trust_remote_code=True)
wavs, lens = torch.randn(3, 16000), torch.tensor([1, 0.6, 0.2])
mask = torch.arange(16000) < 16000 * lens[:, None]
assert (model(wavs, mask).prediction - student.predict_batch(wavs, lens)).abs().max() < 1e-6
assert not [name for name in sys.modules if name.startswith("ser_ts_lobes")]
print(json.dumps([prediction.emotion for prediction in student.predict_files(paths)]))
"""


def test_stock_speechbrain_and_transformers_without_this_package_predict_what_the_run_did(
    student_folder, test_set, tmp_path
):
    paths, expected = test_set
    moved = shutil.copytree(student_folder, tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["HF_HOME"] = str(tmp_path / "cache")  # where transformers copies the code that it runs
    output = subprocess.run(
        [sys.executable, "-I", "-c", _STOCK, json.dumps([str(moved), paths])],
        cwd=tmp_path / "empty",
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    np.testing.assert_allclose(json.loads(output.splitlines()[-1]), expected, rtol=0, atol=1e-4)


# ------------------------------------------------------------------ what is in the folder


def test_the_folder_is_whole_and_holds_no_path_and_no_pickle(student_folder, trained, tiny_hubert):
    assert {path.name for path in student_folder.iterdir()} - {"__pycache__"} == FILES
    for path in student_folder.glob("*.*"):
        content = path.read_bytes()
        assert str(trained).encode() not in content and tiny_hubert.encode() not in content, path.name


def test_the_configuration_says_what_was_trained(student_folder, trained, run):
    config = json.loads((student_folder / "config.json").read_text())
    report = json.loads((run / "metrics.json").read_text())
    with open(trained / "results" / "manifests" / "train.csv", newline="") as file:
        labels = np.array([[float(row[dimension]) for dimension in DIMENSIONS] for row in csv.DictReader(file)])
    assert (config["system"], config["corpus"], config["label_range"]) == ("ft", "toy corpus", [1, 7])
    np.testing.assert_allclose(config["label_mean"], labels.mean(0), atol=1e-5)
    np.testing.assert_allclose(config["label_std"], labels.std(0), atol=1e-5)
    assert config["training"]["batch_size"] == 8 and "ts_weight" not in config["training"]
    low, high = report["test"]["test1"]["valence"]["ccc_95"]
    assert config["test"]["test1"]["valence"]["ccc_95"] in ([low, high], [None, None])
    histogram = config["label_histogram"]
    counts = np.array(histogram["counts"])
    assert counts.shape == (12, 12) and counts.sum() == 24
    activation, valence = labels[:, 0], labels[:, 1]
    v, a = np.unravel_index(counts.argmax(), counts.shape)
    in_cell = (np.digitize(valence, histogram["valence_edges"]) - 1 == v) & (
        np.digitize(activation, histogram["activation_edges"]) - 1 == a
    )
    assert counts[v, a] == in_cell.sum() > 0


def test_the_card_is_read_by_the_hub(student_folder, run):
    card = huggingface_hub.ModelCard.load(student_folder / "README.md")
    report = json.loads((run / "metrics.json").read_text())
    assert card.data.pipeline_tag == "audio-classification" and card.data.library_name == "speechbrain"
    assert card.data.datasets == ["toy-corpus"] and card.data.license == "other"
    results = {result.metric_args["dimension"]: result for result in card.data.eval_results}
    for dimension in DIMENSIONS:
        score = report["test"]["test1"][dimension]
        assert results[dimension].metric_value == score["ccc"]
        assert results[dimension].dataset_split == "test1"
        np.testing.assert_allclose(results[dimension].metric_args["confidence_interval_95"], score["ccc_95"])
    low, high = report["test"]["test1"]["valence"]["ccc_95"]
    assert f"{report['test']['test1']['valence']['ccc']:.3f} [{low:.3f}, {high:.3f}]" in card.text
    for section in ("## Use", "## Results", "## Intended use and limits", "## Training data and licences"):
        assert section in card.text


@pytest.mark.parametrize(
    ("cccs", "said"),
    [
        (
            (0.75, 0.72, 0.5),
            "- Trust dominance least, where its CCC is lowest. Valence lives in words more",
        ),
        ((0.75, 0.4, 0.5), "this student does not read: trust it least there, where its CCC is lowest."),
        ((None, None, None), "- Valence lives in words more than in sound, and this student does not read.\n"),
    ],
)
def test_the_card_says_what_to_trust_least_as_the_scores_do(student_folder, cccs, said):
    config = json.loads((student_folder / "config.json").read_text())
    for dimension, ccc in zip(DIMENSIONS, cccs, strict=True):
        config["test"]["test1"][dimension]["ccc"] = ccc
    assert said in str(make_card(config, "name"))


def test_the_card_says_whether_the_student_reads(student_folder):
    config = json.loads((student_folder / "config.json").read_text())
    assert "this student does not read" in str(make_card(config, "name"))
    config["encoder"]["reader"] = {}
    card = str(make_card(config, "name"))
    assert "this student reads only the words that it hears itself" in card and "does not read" not in card


def test_export_says_what_it_wrote(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(run, "my student")
    *files, last = capsys.readouterr().out.splitlines()
    assert {line.split()[-1] for line in files} == FILES
    assert f"{(tmp_path / 'my student' / 'model.safetensors').stat().st_size:,}  model.safetensors" in "\n".join(files)
    assert last == f"Written: {tmp_path / 'my student'}. Next: ser-ts predict 'my student' RECORDING"


def test_a_taught_student_shows_its_teachers_residuals(trained, run, tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "residuals.png").write_bytes(b"a picture")
    taught = shutil.copytree(run, trained / "results" / "cts" / "1986")
    text = (run / "hyperparams.yaml").read_text().replace("results/ft/1986", "results/cts/1986")
    (taught / "hyperparams.yaml").write_text(f"{text}\nteacher_folder: {teacher}\nts_weight: 30\n")
    export(taught, tmp_path / "student", corpus="Tones 1.0")
    card = (tmp_path / "student" / "README.md").read_text()
    assert (tmp_path / "student" / "teacher_residuals.png").read_bytes() == b"a picture"
    assert "](teacher_residuals.png)" in card and "Tones-1.0" in card
    assert "taught by a teacher" in card and "it learnt the teacher's embedding, everywhere" in card


def test_what_maps_a_student_to_its_teacher_raters_and_classes_stays_behind(trained, run, student_folder, tmp_path):
    taught = shutil.copytree(trained, tmp_path / "moved") / run.relative_to(trained)
    text = (run / "hyperparams.yaml").read_text()
    more = "ts_weight: 30\ntaught: sentence\nprediction_weight: 0.5\nresidual_threshold: 2.0\n"
    (taught / "hyperparams.yaml").write_text(f"{text}\n{more}")
    for checkpoint in (taught / "save").glob("CKPT*"):
        for name, size in (("projector", 24), ("soft_labels", 21), ("emotions", 8)):
            torch.save(torch.nn.Linear(128, size).state_dict(), checkpoint / f"{name}.ckpt")
    export(taught, tmp_path / "student")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "student", student_folder)]
    assert weights[0] == weights[1]
    card = (tmp_path / "student" / "README.md").read_text()
    assert "it learnt the teacher's embedding of the sentence and predictions, where the teacher can be" in card


def test_the_working_folder_stays_and_paths_belong_where_training_ran(trained, tiny_hubert, tmp_path, monkeypatch):
    """All of it was named relative to the recipe's folder: the corpus, the manifests, the encoder and the teacher."""
    moved = shutil.copytree(trained, tmp_path / "moved")
    shutil.copytree(tiny_hubert, moved / "encoders" / "tiny")
    (moved / "results" / "teacher").mkdir()
    (moved / "results" / "teacher" / "residuals.png").write_bytes(b"a picture")
    hyperparams = moved / "results" / "ft" / "1986" / "hyperparams.yaml"
    text = hyperparams.read_text().replace(tiny_hubert, "encoders/tiny")
    hyperparams.write_text(f"{text}\nteacher_folder: results/teacher\nts_weight: 30\n")
    assert "source: encoders/tiny" in text

    def refuse(path):
        raise AssertionError(f"the working folder was changed to {path}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "chdir", refuse)
    export("moved/results/ft/1986", "student")
    assert (tmp_path / "student" / "teacher_residuals.png").is_file()
    assert json.loads((tmp_path / "student" / "config.json").read_text())["corpus"] == "toy corpus"


def test_a_run_of_the_version_before_can_be_exported(run, trained, tmp_path):
    """Its hyper-parameters name classes where they were then."""
    moved = shutil.copytree(trained, tmp_path / "moved") / run.relative_to(trained)
    now, then = "!new:ser_ts_lobes.training.checkpoints.", "!new:ser_ts_lobes.checkpoints."
    text = (moved / "hyperparams.yaml").read_text()
    assert now in text
    (moved / "hyperparams.yaml").write_text(text.replace(now, then))
    export(moved, tmp_path / "student")
    EmotionRegressor.from_pretrained(tmp_path / "student")


def test_exporting_twice_gives_the_same(run, student_folder, tmp_path):
    export(run, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (student_folder / name).read_bytes()


def test_rates_without_a_decimal_point_are_numbers(trained, run, tmp_path):
    """YAML 1.1, which others read, takes 5e-05 for a text."""
    moved = shutil.copytree(trained, tmp_path / "moved") / run.relative_to(trained)
    text = (moved / "hyperparams.yaml").read_text()
    assert "\nlr: 0.0005" in text
    (moved / "hyperparams.yaml").write_text(text.replace("\nlr: 0.0005", "\nlr: 5e-05"))
    export(moved, tmp_path / "student")
    assert json.loads((tmp_path / "student" / "config.json").read_text())["training"]["lr"] == 5e-5


def test_half_precision(run, student_folder, tmp_path, test_set):
    export(run, tmp_path / "half", half=True)
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.6 * (student_folder / "model.safetensors").stat().st_size
    paths, expected = test_set
    student = EmotionRegressor.from_pretrained(tmp_path / "half")
    np.testing.assert_allclose(emotions(student, paths), expected, rtol=0, atol=0.02)
    assert "float16" in (tmp_path / "half" / "README.md").read_text()


# ------------------------------------------------------------------ what is refused


def test_an_existing_folder_is_not_written_over(run, tmp_path):
    out = tmp_path / "student"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(InputError, match="holds something else than a student"):
            export(run, out, force=force)
    (out / "thesis.tex").unlink()
    export(run, out)
    with pytest.raises(InputError, match="already holds a student: --force"):
        export(run, out)
    export(run, out, force=True)
    assert set(os.listdir(out)) == FILES and os.listdir(tmp_path) == ["student"]


def test_what_is_no_part_of_the_student_stays(run, tmp_path):
    out = tmp_path / "student"
    export(run, out)
    others = {".git/HEAD": "ref", ".gitattributes": "lfs", "notes.txt": "mine", "model.onnx.d/README.md": "mine, too"}
    for name, text in others.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)
    # Of an earlier export with other options: they are of other weights.
    stale = ["model.onnx", "model.int8.onnx", "teacher_residuals.png"]
    for name in [*stale, "README.md"]:
        (out / name).write_text("old")
    inode = (out / ".git").stat().st_ino
    export(run, out, half=True, force=True)
    assert {name: (out / name).read_text() for name in others} == others and (out / ".git").stat().st_ino == inode
    assert not [name for name in stale if (out / name).exists()]
    assert (out / "README.md").read_text() != "old"
    assert json.loads((out / "config.json").read_text())["weights"] == "float16"
    assert os.listdir(tmp_path) == ["student"]
    assert {*FILES, *stale} == export_module._FILES  # so that a new kind of file is not forgotten


def test_a_failure_amid_the_replacing_is_undone(run, tmp_path, monkeypatch):
    out = tmp_path / "student"
    export(run, out)
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    order, rename = [], Path.rename

    def fail_at_the_end(path, target):
        order.append((path.name, path.parent == out))
        if path.name == "config.json" and path.parent.name == "incoming":
            raise OSError("disk full")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_end)
    with pytest.raises(OSError, match="disk full"):
        export(run, out, half=True, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["student"]
    # The configuration went first and would have come last: in between is no student.
    assert order[0] == ("config.json", True)
    assert {name for name, _ in order[len(FILES) + 1 : 2 * len(FILES)]} == FILES - {"config.json"}


def test_an_old_student_survives_even_if_there_is_no_way_back(run, tmp_path, monkeypatch):
    out = tmp_path / "student"
    export(run, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rename = Path.rename

    def fail_inwards(path, target):
        if Path(target).parent == out:
            raise OSError("read-only")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_inwards)
    with pytest.raises(OSError, match="read-only"):
        export(run, out, force=True)
    [kept] = tmp_path.glob(".student.*/old")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    monkeypatch.undo()
    with pytest.raises(InputError, match="already holds a student: --force replaces it"):
        export(run, out)  # which first puts it back
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before and os.listdir(tmp_path) == ["student"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "n_renames", [0, 1, len(FILES) - 1, len(FILES), len(FILES) + 1, len(FILES) + 2, 2 * len(FILES)]
)
def test_an_export_that_was_killed_amid_the_replacing_leaves_one_student_or_the_other(
    run, tmp_path, monkeypatch, n_renames
):
    def files():
        return {path.name: path.read_bytes() for path in out.iterdir()}

    out = tmp_path / "student"
    export(run, out, half=True)
    other = files()
    export(run, out, force=True)
    (out / "model.onnx").write_bytes(b"of that student")
    before = files()
    monkeypatch.setattr(os, "getpid", lambda: 999_999_999)  # a process that is gone
    rename, left = Path.rename, [n_renames]

    def be_killed(path, target):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", be_killed)
    with pytest.raises(Killed):
        export(run, out, half=True, force=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match="already holds a student: --force replaces it"):
        export(run, out)
    assert files() == (before if n_renames <= len(FILES) + 1 else other)
    assert os.listdir(tmp_path) == ["student"]
    export(run, out, half=True, force=True)
    assert files() == other


def test_what_could_not_be_loaded_is_not_written(run, tmp_path):
    with pytest.raises(InputError, match="corpus is not a text of at most 500"):
        export(run, tmp_path / "student", corpus="a" * 501)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("label_range", "n_cells"), [((1, 7), 12), ((0, 0.2), 1), ((0, 100), 200), ((0, 1000), 200)])
def test_a_histogram_has_as_many_cells_as_a_page_can_show(label_range, n_cells):
    histogram = export_module._histogram(np.full((5, 3), label_range[0] + 0.1), label_range)
    assert np.shape(histogram["counts"]) == (n_cells, n_cells) and np.sum(histogram["counts"]) == 5


def test_a_failure_leaves_the_old_student(run, tmp_path, monkeypatch):
    out = tmp_path / "student"
    export(run, out)
    before = (out / "README.md").read_bytes()

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("ser_ts_lobes.student.export.make_card", fail)
    with pytest.raises(OSError, match="disk full"):
        export(run, out, force=True)
    assert os.listdir(tmp_path) == ["student"] and (out / "README.md").read_bytes() == before


def copy_of_run(run, tmp_path, hyperparams=lambda text: text):
    copy = shutil.copytree(run, tmp_path / "results" / "ft" / "1986")
    (copy / "hyperparams.yaml").write_text(hyperparams((run / "hyperparams.yaml").read_text()))
    return copy


def test_runs_that_can_not_be_exported_are_one_sentence(run, tmp_path):
    with pytest.raises(InputError, match="has no metrics.json, so it isn't a finished run"):
        export(tmp_path, tmp_path / "out")
    reads = copy_of_run(
        run, tmp_path / "a", lambda text: text.replace("\nmodules:\n", "\nmodules:\n  text_encoder: 1\n")
    )
    with pytest.raises(InputError, match="the system ft reads text"):
        export(reads, tmp_path / "out")
    without_weights = copy_of_run(run, tmp_path / "b")
    shutil.rmtree(without_weights / "save")
    with pytest.raises(InputError, match="save holds no checkpoint: train this system again"):
        export(without_weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("part", "alias"), [("speech_encoder", "id001"), ("model", "id003")])
def test_a_part_that_can_not_travel_is_one_sentence(run, tmp_path, part, alias):
    def replace_part(text):
        before, modules = text.split("\nmodules:\n")
        assert f"{part}: *{alias}\n" in modules
        modules = modules.replace(f"{part}: *{alias}\n", f"{part}: *other\n", 1)
        return f"{before}\nother: &other !new:torch.nn.Identity\nmodules:\n{modules}"

    with pytest.raises(InputError, match="the Identity of the system ft can't travel"):
        export(copy_of_run(run, tmp_path, replace_part), tmp_path / "out")


def test_a_checkpoint_that_was_not_tested_is_refused(trained, run, tmp_path):
    older = shutil.copytree(run, trained / "results" / "older" / "1986")
    report = json.loads((older / "metrics.json").read_text())
    report["best"]["epoch"] += 1
    (older / "metrics.json").write_text(json.dumps(seal(report)))
    text = (run / "hyperparams.yaml").read_text().replace("results/ft/1986", "results/older/1986")
    (older / "hyperparams.yaml").write_text(text)
    with pytest.raises(InputError, match="run the training command again, which tests it"):
        export(older, tmp_path / "out")


def test_other_labels_than_those_of_training_are_refused(trained, run, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    report = json.loads((moved / "results" / "ft" / "1986" / "metrics.json").read_text())
    report["manifests"]["train"] = "0" * 64
    (moved / "results" / "ft" / "1986" / "metrics.json").write_text(json.dumps(seal(report)))
    with pytest.raises(InputError, match="no longer what the student was trained on"):
        export(moved / "results" / "ft" / "1986", tmp_path / "out")
