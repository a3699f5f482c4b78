"""A student as a model of transformers: equal to the student, whatever it hears with."""

import ast
import sys
from pathlib import Path

import pytest
import torch
import transformers.dynamic_module_utils
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from ser_ts_lobes.student.inference import EmotionRegressor
from ser_ts_lobes.student.modeling import FOR_TRANSFORMERS, MODELING_FILE, StudentModel
from ser_ts_lobes.student.single_file import compose
from tests.tiny_models import save_tiny_reader, save_tiny_ssl, save_tiny_whisper
from tests.tiny_student import save_tiny_student


@pytest.fixture(scope="module")
def modeling():
    return compose("ser_ts_lobes.student.modeling", "StudentModel", "A student.")


@pytest.mark.parametrize("kind", ["hubert", "wavlm", "whisper", "reader", "half"])
def test_it_predicts_what_the_student_does(kind, modeling, tiny_hubert, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    make = {
        "hubert": lambda folder: tiny_hubert,
        "half": lambda folder: tiny_hubert,
        "wavlm": lambda folder: save_tiny_ssl(folder, "wavlm", "large"),
        "whisper": save_tiny_whisper,
        "reader": lambda folder: save_tiny_reader(folder, tiny_hubert, tiny_bert),
    }
    folder = Path(save_tiny_student(tmp_path / f"student-{kind}", make[kind](tmp_path / "encoder"), **FOR_TRANSFORMERS))
    if kind == "half":
        weights = load_file(folder / "model.safetensors")
        halved = {name: w if name.startswith("label_scale.") else w.half() for name, w in weights.items()}
        save_file(halved, folder / "model.safetensors", {"format": "pt"})
    (folder / MODELING_FILE).write_text(modeling, encoding="utf-8")
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model) is not StudentModel and not model.training  # it is that of the file
    wavs, lens = torch.randn(2, 16000), torch.tensor([1.0, 0.6])
    mask = (torch.arange(16000) < 16000 * lens[:, None]).long()
    student = EmotionRegressor.from_pretrained(folder)
    with torch.no_grad():
        padded, alone = model(wavs, mask), model(wavs[:1])
    torch.testing.assert_close(padded.prediction, student.predict_batch(wavs, lens), atol=1e-6, rtol=0)
    torch.testing.assert_close(padded.embedding, student.encode_batch(wavs, lens)[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(alone.prediction, padded.prediction[:1], atol=1e-5, rtol=0)


def test_the_file_needs_what_it_says(modeling):
    imported = set()
    for node in ast.walk(ast.parse(modeling)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    others = {name for name in imported if name not in sys.stdlib_module_names}
    assert others == {"huggingface_hub", "numpy", "safetensors", "speechbrain", "torch", "transformers"}
