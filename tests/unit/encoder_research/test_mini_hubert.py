"""The encoder that is shipped, and the tool that made it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import HubertModel, WhisperConfig, WhisperFeatureExtractor, WhisperModel

import ser_ts_lobes
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.speech import SpeechEncoder
from tests.tiny_models import save_tiny_whisper
from tools.encoder_research import lesson_speech
from tools.encoder_research import train_mini_hubert as tool

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = Path(ser_ts_lobes.__file__).parent / "mini_hubert"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Give the folder of a random Whisper with as many layers as tiny.en has."""
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "encoder_layers": 4, "encoder_attention_heads": 2}
    WhisperModel(WhisperConfig(**sizes, decoder_layers=1, decoder_attention_heads=2)).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def speaker():
    return lesson_speech.Speaker()


@pytest.fixture
def short_batches(monkeypatch):
    """Let a run of the tool take seconds: little speech, and one thread, for two would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(lesson_speech, "CLIP_S", (0.5, 0.7))
    monkeypatch.setattr(lesson_speech, "UTTERANCE_S", (1.0, 1.2))
    monkeypatch.setattr(lesson_speech, "BATCH_S", 2)
    monkeypatch.setattr(lesson_speech, "BESIDE_WORDS_S", 1)
    monkeypatch.setattr(tool, "STATISTICS_BATCHES", 4)
    monkeypatch.setattr(tool, "VALIDATION_BATCHES", 2)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------------------------------------- what is shipped


def test_transformers_and_the_lobe_load_the_shipped_encoder_alike():
    wavs = 0.05 * torch.randn(2, 160000)
    plain, encoder = HubertModel.from_pretrained(SHIPPED).eval(), SpeechEncoder(str(SHIPPED)).eval()
    assert plain.dtype == torch.float32
    plain, encoder, wavs = plain.double(), encoder.double(), wavs.double()  # rounding is not what is compared
    with torch.no_grad():
        frames, _ = encoder(wavs, torch.ones(2))
        torch.testing.assert_close(frames, plain(wavs).last_hidden_state, atol=1e-5, rtol=0)
    assert frames.shape == (2, 499, 192)  # 50 a second, without half a window at either end
    assert len(encoder.layers) >= 6


def test_shipped_files_are_small_and_complete():
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"} <= {
        file.name for file in SHIPPED.iterdir()
    }
    assert (SHIPPED / "model.safetensors").stat().st_size <= 8e6
    weights = load_file(SHIPPED / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert all(weight.isfinite().all() for weight in weights.values())


def test_shipped_architecture_is_the_one_that_the_tool_trains():
    ours = tool.CONFIG.to_dict()
    shipped = HubertModel.from_pretrained(SHIPPED).config.to_dict()
    made_by_saving = ("architectures", "dtype", "transformers_version", "_name_or_path")
    assert {k: v for k, v in shipped.items() if k not in made_by_saving} == {
        k: v for k, v in ours.items() if k not in made_by_saving
    }


def test_an_installation_has_the_encoder(tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "ser_ts_lobes" / "mini_hubert" / "model.safetensors").is_file()


# ------------------------------------------------------------------------------------------- the student's ears


def test_gabor_filters_pass_their_own_band():
    filters = tool.gabor_filters(64, 400).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(filters, axis=1), 1, rtol=1e-5)
    spectrum = np.abs(np.fft.rfft(filters, 16000))  # a bin a hertz
    mel = 2595 * np.log10(1 + spectrum.argmax(axis=1) / 700)
    lowest, highest = (2595 * np.log10(1 + hz / 700) for hz in (60, 7500))
    expected = np.linspace(lowest, highest, 64).repeat(2)
    np.testing.assert_allclose(mel[8:], expected[8:], atol=5)  # the lowest are wider than their distance from 0 Hz


def test_student_hears_how_loud_a_clip_is():
    student = tool.make_student(0)
    quiet = 0.01 * torch.randn(1, 32000)
    with torch.no_grad():
        soft, loud = (student(gain * quiet).last_hidden_state.mean(dim=1) for gain in (1, 10))
    assert (loud - soft).norm() > 0.05 * soft.norm()


@pytest.mark.parametrize("frame", [10, 25])
def test_targets_are_of_the_same_moment(teacher, frame):
    distillation = tool.Distillation(teacher, seed=0)
    silence = 1e-3 * torch.randn(1, 16000)
    click = silence.clone()
    click[0, 320 * (frame + 1)] = 0.9  # the middle of the student's frame
    student = distillation.student.feature_extractor
    with torch.no_grad():
        heard = student(click).transpose(1, 2) - student(silence).transpose(1, 2)
    taught = distillation.targets(click)[0] - distillation.targets(silence)[0]
    assert heard.shape[1] == taught.shape[1] == 49
    assert heard[0].norm(dim=1).argmax() == frame
    assert taught[0].norm(dim=1).argmax() == frame


# ------------------------------------------------------------------------------------------- the distillation


def test_loss_agrees_with_the_formulas(teacher, speaker, short_batches):
    distillation = tool.Distillation(teacher, seed=0)
    wavs = speaker.batch(np.random.default_rng(5))
    distillation.fit_statistics([wavs])
    with torch.no_grad():
        found = distillation(wavs).double().numpy()
        with torch.autocast("cpu", torch.bfloat16):
            output = distillation.student(wavs, output_hidden_states=True)
    hidden = {4: output.hidden_states[4], 5: output.hidden_states[5], 6: output.last_hidden_state}
    targets = distillation.targets(wavs).double().numpy()
    expected = np.zeros(3)
    for head, (layer, teacher_layer) in zip(distillation.heads, tool.PAIRS, strict=True):
        with torch.no_grad():
            guess = head(hidden[layer].float()).double().numpy()
        target = targets[teacher_layer - 1]
        flat = target.reshape(-1, target.shape[-1])
        mean, sd = flat.mean(axis=0), flat.std(axis=0, ddof=1)
        scaled = (target - mean) / sd
        cosine = (guess * scaled).sum(-1) / np.linalg.norm(guess, axis=-1) / np.linalg.norm(scaled, axis=-1)
        clip_sd = target.mean(axis=1).std(axis=0, ddof=1)
        clip_guess = (guess * sd + mean).mean(axis=1)
        expected += [
            np.abs(guess - scaled).mean(),
            np.log1p(np.exp(-cosine)).mean(),
            (np.abs(clip_guess - target.mean(axis=1)) / clip_sd).mean(),
        ]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected / len(tool.PAIRS), rtol=1e-3)


def test_training_lowers_the_validation_losses(teacher, tiny_bert, tmp_path, short_batches):
    lines = []
    settings = {"steps": 12, "distil_steps": 4, "report_every": 4}
    tool.train(teacher, tiny_bert, tmp_path / "out", tmp_path / "run.ckpt", **settings, log=lines.append)
    parts = [line.split("validation ")[1].split(" = ")[0].split(" + ") for line in lines]
    losses = [np.array(part, float) for part in parts]
    assert [len(loss) for loss in losses] == [3, 6, 6]
    assert losses[2][:3].sum() < losses[0].sum() and losses[2][3] < losses[1][3]  # of Whisper; of sounds
    assert "of the words right" in lines[1] and "right" not in lines[0]


def test_an_interrupted_run_goes_on(teacher, tiny_bert, tmp_path, short_batches):
    settings = {"steps": 6, "distil_steps": 2, "report_every": 3}
    tool.train(teacher, tiny_bert, tmp_path / "whole", tmp_path / "whole.ckpt", **settings, log=lambda line: None)

    def interrupt(line):
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    lines = []
    parts = teacher, tiny_bert, tmp_path / "parts", tmp_path / "parts.ckpt"
    with pytest.raises(KeyboardInterrupt):
        tool.train(*parts, **settings, log=interrupt)
    half = load_file(tmp_path / "parts" / "model.safetensors")
    tool.train(*parts, **settings, log=lines.append)
    assert lines[0] == "going on after step 3" and lines[1].startswith("step 6/6")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    name = "encoder.layers.5.feed_forward.output_dense.weight"
    step = (half[name].float() - whole[name].float()).norm()
    assert (resumed[name].float() - whole[name].float()).norm() < 0.5 * step
    with pytest.raises(InputError, match="parts.ckpt is of a run with .*'seed': 1986.* name another checkpoint"):
        tool.train(*parts, **settings, seed=7)


def test_an_export_is_the_student_in_half_precision(tmp_path):
    student = tool.make_student(3)
    tool.export(student, tmp_path / "out")
    tool.export(tool.make_student(4), tmp_path / "out")
    tool.export(student, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    loaded = HubertModel.from_pretrained(tmp_path / "out").state_dict()
    expected = {name: weight.half().float() for name, weight in student.state_dict().items()}
    torch.testing.assert_close(loaded, expected, atol=0, rtol=0)


def test_a_teacher_with_too_few_layers_is_refused(tmp_path):
    with pytest.raises(InputError, match="has 2 layers; 4 are needed"):
        tool.Distillation(save_tiny_whisper(tmp_path), seed=0)
