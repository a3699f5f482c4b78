# ruff: noqa: F811  (fixtures that another test module lends)
import csv
import json
import re
import shutil
import sys

import numpy as np
import onnx
import onnx_ir
import pytest
import soundfile
import torch

from ser_ts_lobes.cli import main
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.emotion import EmotionModel, LabelScale
from ser_ts_lobes.lobes.pooling import GRUPooling, TransformerPooling
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.student.inference import EmotionRegressor
from ser_ts_lobes.student.network import StudentNetwork
from ser_ts_lobes.student.onnx import (
    LabelledSet,
    export_onnx,
    open_onnx,
    quantisation_cost,
    quantise_onnx,
    read_test_sets,
    run_onnx,
)
from tests.tiny_models import save_tiny_listener, save_tiny_reader, save_tiny_ssl, save_tiny_whisper
from tests.unit.student.test_export import run, trained  # noqa: F401  (fixtures)

ARCHITECTURES = {
    "hubert_base": ("hubert", "base", GRUPooling),
    "hubert_large": ("hubert", "large", GRUPooling),
    "wav2vec2_base": ("wav2vec2", "base", TransformerPooling),
    "wavlm_base": ("wavlm", "base", GRUPooling),
}


def make_network(source, make_pooling=GRUPooling, layers="last"):
    torch.manual_seed(0)
    encoder = load_speech_encoder(source, layers=layers)
    scale = LabelScale()
    scale.fit(4 + torch.randn(50, 3))
    network = StudentNetwork(encoder, EmotionModel(make_pooling(encoder.output_size)), scale)
    network.model.projection.weight.data *= 20  # so that clips differ by far more than the tolerance
    return network.eval().requires_grad_(False)


def make_clip(duration_s, seed=0):
    return 0.1 * torch.randn(round(duration_s * 16000), generator=torch.Generator().manual_seed(seed))


def run_torch(network, clip):
    output = network(clip.unsqueeze(0), torch.ones(1))
    return output.prediction.numpy(), output.embedding.numpy()


@pytest.fixture(scope="module")
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "whisper":
        network, longest_s = make_network(save_tiny_whisper(folder)), 10.0  # its window
    elif request.param == "listener":
        below = save_tiny_ssl(tmp_path_factory.mktemp("below"))
        network, longest_s = make_network(save_tiny_listener(folder, below), layers="weighted"), 20.0
    elif request.param == "weighted":
        network, longest_s = make_network(save_tiny_ssl(folder), layers="weighted"), 20.0
    else:
        kind, style, make_pooling = ARCHITECTURES[request.param]
        network, longest_s = make_network(save_tiny_ssl(folder, kind, style), make_pooling), 20.0
    export_onnx(network, folder / "model.onnx")
    return network, folder / "model.onnx", longest_s


def test_a_student_that_reads_is_refused_in_one_sentence(tmp_path, tiny_hubert, tiny_bert):
    network = make_network(save_tiny_reader(tmp_path / "reader", tiny_hubert, tiny_bert))
    with pytest.raises(InputError, match="export it without --onnx"):
        export_onnx(network, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("exported", [*ARCHITECTURES, "whisper", "listener", "weighted"], indirect=True)
class TestExport:
    def test_a_clip_alone_gives_what_pytorch_gives(self, exported):
        network, path, longest_s = exported
        session = open_onnx(path)
        embeddings = []
        for duration_s in (0.01, 0.5, 3.21, longest_s):
            clip = make_clip(duration_s, seed=round(duration_s))
            ours, torchs = run_onnx(session, [clip]), run_torch(network, clip)
            np.testing.assert_allclose(ours[0], torchs[0], atol=1e-4)
            np.testing.assert_allclose(ours[1], torchs[1], atol=1e-4)
            embeddings.append(ours[1])
        assert np.ptp(embeddings, axis=0).max() > 0.01

    def test_a_clip_in_a_batch_gives_what_it_gives_alone(self, exported):
        network, path, longest_s = exported
        clips = [make_clip(duration_s, seed) for seed, duration_s in enumerate((2.0, 0.5, longest_s, 5.3))]
        prediction, embedding = run_onnx(open_onnx(path), clips)
        for i, clip in enumerate(clips):
            alone = run_torch(network, clip)
            np.testing.assert_allclose(prediction[i : i + 1], alone[0], atol=1e-4)
            np.testing.assert_allclose(embedding[i : i + 1], alone[1], atol=1e-4)

    def test_what_is_behind_the_end_does_not_matter(self, exported):
        _, path, _ = exported
        session = open_onnx(path)
        zeros = torch.stack([make_clip(2), torch.nn.functional.pad(make_clip(1), (0, 16000))]).numpy()
        noise = np.where(zeros == 0, 5.0, zeros).astype(np.float32)
        lengths = np.array([32000, 16000])
        for clean, dirty in zip(
            session.run(None, {"waveform": zeros, "lengths": lengths}),
            session.run(None, {"waveform": noise, "lengths": lengths}),
            strict=True,
        ):
            np.testing.assert_allclose(clean, dirty, atol=1e-5)

    def test_it_is_one_valid_file_with_the_documented_inputs_and_outputs(self, exported):
        _, path, _ = exported
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
        assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
        shapes = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)
        }
        assert shapes == {
            "waveform": ["batch", "samples"],
            "lengths": ["batch"],
            "prediction": ["batch", 3],
            "embedding": ["batch", 128],
        }


@pytest.mark.parametrize("exported", ["hubert_base"], indirect=True)
class TestQuantisation:
    def test_the_file_is_smaller_and_predicts_nearly_the_same(self, exported, tmp_path):
        network, path, _ = exported
        quantise_onnx(path, tmp_path / "int8.onnx")
        assert (tmp_path / "int8.onnx").stat().st_size < path.stat().st_size
        operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
        assert {"MatMulInteger", "Conv", "GRU"} <= operators
        embedding = run_onnx(open_onnx(tmp_path / "int8.onnx"), [make_clip(2)])[1]
        error = np.abs(embedding - run_torch(network, make_clip(2))[1]).max()
        assert 0 < error < 0.1 * np.abs(embedding).max()

    def test_the_cost_compares_ccc_before_and_after(self, exported, tmp_path):
        network, path, _ = exported
        quantise_onnx(path, tmp_path / "int8.onnx")
        paths = [tmp_path / f"{i}.wav" for i in range(6)]
        for i, wav in enumerate(paths):
            soundfile.write(wav, make_clip(0.5 + 0.2 * i, i).numpy(), 16000, subtype="FLOAT")
        session = open_onnx(tmp_path / "int8.onnx")
        int8 = np.concatenate([run_onnx(session, [make_clip(0.5 + 0.2 * i, i)])[0] for i in range(6)])
        float32, label = np.random.randn(2, 6, 3)
        cost = quantisation_cost(tmp_path / "int8.onnx", LabelledSet(paths, float32, label))
        for j, dimension in enumerate(("activation", "valence", "dominance")):
            for key, predicted in (("float32", float32), ("int8", int8.astype(np.float64))):
                covariance = np.cov(predicted[:, j], label[:, j], bias=True)
                shift = predicted[:, j].mean() - label[:, j].mean()
                ccc = 2 * covariance[0, 1] / (np.trace(covariance) + shift**2)
                assert cost[dimension][key] == pytest.approx(ccc, abs=1e-6)


class TestRun:
    def test_the_cost_is_reported_and_travels_in_configuration_and_card(self, run, tmp_path, capsys):
        assert main(["export", str(run), "--out", str(tmp_path / "student"), "--int8"]) == 0
        config = json.loads((tmp_path / "student" / "config.json").read_text())
        ccc = config["onnx"]["ccc"]["test1"]
        for dimension, scores in ccc.items():
            # The float one is the run's own, which metrics.json has, too.
            assert scores["float32"] == pytest.approx(config["test"]["test1"][dimension]["ccc"], abs=1e-5)
            assert 0 < abs(scores["int8"] - scores["float32"]) < 0.2
        table = "\n".join(line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
        assert "| int8 | " + " | ".join(f"{scores['int8']:.3f}" for scores in ccc.values()) + " |" in table
        assert table in (tmp_path / "student" / "README.md").read_text()
        for name, size in config["onnx"]["bytes"].items():
            assert (tmp_path / "student" / name).stat().st_size == size
        student = EmotionRegressor.from_pretrained(tmp_path / "student")
        session = open_onnx(tmp_path / "student" / "model.onnx")
        np.testing.assert_allclose(
            run_onnx(session, [make_clip(1)])[0], student.predict_batch(make_clip(1).unsqueeze(0)), atol=1e-4
        )

    def test_without_the_audio_the_cost_is_left_out_and_said_to_be(self, run, tmp_path, monkeypatch, capsys):
        gone = {"test1": LabelledSet([tmp_path / "gone"], [], [])}
        monkeypatch.setattr("ser_ts_lobes.student.export.read_test_sets", lambda *_: gone)
        monkeypatch.setattr("ser_ts_lobes.student.export.write_onnx", fake_files)
        main(["export", str(run), "--out", str(tmp_path / "student"), "--int8"])
        assert re.search(r"can't be measured here: .*gone does not exist", capsys.readouterr().out)
        assert json.loads((tmp_path / "student" / "config.json").read_text())["onnx"]["ccc"] == {}
        assert "was not measured" in (tmp_path / "student" / "README.md").read_text()

    def test_test_sets_are_those_that_the_run_predicted(self, trained, run):
        test_sets = read_test_sets(RunFolder(run), trained / "results" / "manifests", trained / "toy corpus")
        with open(run / "predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(test_sets) == ["test1"]
        assert [path.stem for path in test_sets["test1"].paths] == [row["ID"] for row in rows]
        np.testing.assert_array_equal(test_sets["test1"].prediction[:, 1], [float(row["valence"]) for row in rows])
        np.testing.assert_array_equal(test_sets["test1"].label[:, 2], [float(row["label_dominance"]) for row in rows])

    def test_a_manifest_of_other_utterances_is_refused(self, trained, run, tmp_path):
        shutil.copytree(trained / "results" / "manifests", tmp_path / "manifests")
        (tmp_path / "manifests" / "manifests.json").unlink()
        shutil.copy(tmp_path / "manifests" / "valid.csv", tmp_path / "manifests" / "test1.csv")
        with pytest.raises(InputError, match="has no .*, which the run was tested on: prepare the corpus again"):
            read_test_sets(RunFolder(run), tmp_path / "manifests", trained / "toy corpus")


def fake_files(folder, network, test_sets):
    (folder / "model.int8.onnx").write_bytes(b"")
    return {"bytes": {"model.onnx": 1, "model.int8.onnx": 1}, "ccc": test_sets}


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime.* -m pip install -e '.*\[onnx\]'"):
        open_onnx(tmp_path / "model.onnx")


def test_nothing_is_left_of_an_export_that_fails(tiny_hubert, tmp_path, monkeypatch):
    class Program:
        model = onnx_ir.Model(onnx_ir.Graph([], [onnx_ir.Value(), onnx_ir.Value()], nodes=[]), ir_version=10)

        def save(self, path):
            path.write_text("half")
            raise OSError("disk full")

    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Program())
    with pytest.raises(OSError, match="disk full"):
        export_onnx(make_network(tiny_hubert), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
