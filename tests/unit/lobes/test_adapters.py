"""Low-rank adapters: that they are what the formula says, learn alone, travel alone, and leave no trace when merged."""

import pytest
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.student.network import load_network, save_weights
from ser_ts_lobes.training.checkpoints import Checkpointer
from tests.tiny_models import save_tiny_listener, save_tiny_ssl, save_tiny_whisper
from tests.tiny_student import describe_network, make_tiny_network

KINDS = ["hubert", "hubert-large", "wav2vec2", "wavlm", "whisper"]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.fixture(params=KINDS)
def source(request, tmp_path):
    kind, _, style = request.param.partition("-")
    return save_tiny_whisper(tmp_path) if kind == "whisper" else save_tiny_ssl(tmp_path, kind, style or "base")


@pytest.fixture
def sound():
    return torch.randn(2, 16000), torch.tensor([1.0, 0.6])


def learn(encoder):
    """Let adapters be other than zero."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    return encoder


def test_at_first_adapters_add_nothing(source, sound):
    plain, adapted = load_speech_encoder(source, 1), load_speech_encoder(source, 1, lora_rank=2)
    with torch.no_grad():
        torch.testing.assert_close(adapted(*sound), plain(*sound), rtol=0, atol=1e-6)


def test_only_adapters_learn_and_each_does(source, sound):
    encoder = load_speech_encoder(source, 1, lora_rank=2).train()
    learning = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * len(PROJECTIONS)
    assert sum(p.numel() for p in learning.values()) == len(PROJECTIONS) * 2 * 2 * encoder.output_size
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)
    for _ in range(2):  # the first step moves B alone, for A is behind a B of zeros
        frames, _ = encoder(*sound)
        optimizer.zero_grad()
        (frames * torch.randn_like(frames)).sum().backward()
        optimizer.step()
    moved = {name for name, weight in encoder.state_dict().items() if not weight.equal(before[name])}
    assert moved == set(learning)


def test_what_is_added_to_a_weight_is_the_product(source, sound):
    encoder, plain = learn(load_speech_encoder(source, 2, lora_rank=3)), load_speech_encoder(source, 2)
    adapters = {name: weight.double() for name, weight in encoder.trainable_state().items()}
    with torch.no_grad():
        for name, module in plain.layers[plain.n_frozen :].named_modules():
            if name.endswith(PROJECTIONS):
                a, b = (adapters.pop(f"{name}.parametrizations.weight.0.{part}") for part in "ab")
                assert a.shape[0] == b.shape[1] == 3
                module.weight.copy_(module.weight.double() + torch.einsum("or,ri->oi", b, a))
        assert not adapters
        torch.testing.assert_close(encoder(*sound)[0], plain(*sound)[0], rtol=0, atol=1e-5)
        assert not torch.allclose(encoder(*sound)[0], load_speech_encoder(source, 2)(*sound)[0], atol=1e-2)


def test_merged_adapters_are_heard_and_not_seen(source, sound):
    encoder = learn(load_speech_encoder(source, 1, lora_rank=2))
    with torch.no_grad():
        expected = encoder(*sound)[0]
        encoder.merge_adapters()
        torch.testing.assert_close(encoder(*sound)[0], expected, rtol=0, atol=1e-6)
    assert encoder.state_dict().keys() == load_speech_encoder(source).state_dict().keys()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_student_of_adapters_travels_as_any_other(source, sound, tmp_path):
    network = make_tiny_network(source)
    network.speech_encoder = learn(load_speech_encoder(source, 1, lora_rank=2)).eval()
    with torch.no_grad():
        expected = network(*sound)
        network.speech_encoder.merge_adapters()
        save_weights(network, tmp_path / "saved.safetensors")
        found = load_network(describe_network(network), tmp_path / "saved.safetensors")(*sound)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_checkpoint_holds_the_adapters_alone(source, sound, tmp_path):
    encoder = learn(load_speech_encoder(source, 1, lora_rank=2))
    checkpoint = Checkpointer(tmp_path / "save", {"encoder": encoder}).save_checkpoint()
    saved = torch.load(checkpoint.path / "encoder.ckpt", weights_only=True)
    assert len(saved["layers"]) == 2 * len(PROJECTIONS)
    assert sum(weight.numel() for weight in saved["layers"].values()) == 16 * encoder.output_size
    again = load_speech_encoder(source, 1, lora_rank=2)
    Checkpointer(tmp_path / "save", {"encoder": again}).recover_if_possible()
    with torch.no_grad():
        torch.testing.assert_close(again(*sound), encoder(*sound), rtol=0, atol=1e-6)


def test_a_checkpoint_of_adapters_fits_the_weights_that_they_add_to(tmp_path):
    source = save_tiny_ssl(tmp_path)
    encoder = learn(load_speech_encoder(source, 1, lora_rank=2))
    Checkpointer(tmp_path / "save", {"encoder": encoder}).save_checkpoint()
    other = load_speech_encoder(source, 1, lora_rank=2)
    with torch.no_grad():
        other.layers[-1].attention.q_proj.parametrizations.weight.original.add_(1e-3)
    with pytest.raises(InputError, match="was trained on top of another encoder"):
        Checkpointer(tmp_path / "save", {"encoder": other}).recover_if_possible()
    other = load_speech_encoder(source, 1)  # without adapters
    with pytest.raises(InputError, match="was trained on top of another encoder"):
        Checkpointer(tmp_path / "save", {"encoder": other}).recover_if_possible()


def test_what_is_frozen_does_not_depend_on_the_adapters(tmp_path):
    source = save_tiny_ssl(tmp_path)
    encoder = load_speech_encoder(source, 1, lora_rank=2)
    fingerprint = encoder.frozen_fingerprint()
    assert learn(load_speech_encoder(source, 1, lora_rank=2)).frozen_fingerprint() == fingerprint
    assert load_speech_encoder(source, 1, lora_rank=3).frozen_fingerprint() == fingerprint
    assert load_speech_encoder(source, 2, lora_rank=2).frozen_fingerprint() != fingerprint


def test_a_listener_takes_no_adapters(tmp_path):
    source = save_tiny_listener(tmp_path / "listener", save_tiny_ssl(tmp_path / "below"))
    with pytest.raises(InputError, match="lora_rank is 2, but .*listener' is a listener.*give --lora_rank 0"):
        load_speech_encoder(source, 1, lora_rank=2)
