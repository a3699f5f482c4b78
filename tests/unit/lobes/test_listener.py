import json

import pytest
import safetensors.torch
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.encoder import n_valid, valid_mask
from ser_ts_lobes.lobes.listener import (
    LISTENER_CONFIG_FILE,
    LISTENER_WEIGHTS_FILE,
    Listener,
    is_listener,
    save_listener,
)
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.speech import ListenerEncoder, load_speech_encoder

SIZES = {"hidden_size": 16, "num_layers": 3, "num_heads": 2, "stack": 4, "kernel_size": 5}


@pytest.fixture
def listener():
    return Listener(input_size=8, **SIZES).eval()


@pytest.fixture
def saved(tiny_hubert, tmp_path):
    """Give a speech encoder, a listener on top, and the folder of both."""
    speech = load_speech_encoder(tiny_hubert).eval()
    listener = Listener(speech.output_size, **SIZES).eval()
    save_listener(tmp_path / "listener", speech, listener)
    return speech, listener, tmp_path / "listener"


def test_four_frames_become_one(listener):
    output = listener(torch.randn(3, 10, 8), torch.tensor([1.0, 0.5, 0.1]))
    assert output.frames.shape == output.inner.shape == (3, 3, 16)
    assert n_valid(output.lens, 3).tolist() == [3, 2, 1]  # of 10, 5 and 1 frames


@torch.no_grad()
def test_what_is_heard_does_not_depend_on_the_batch(listener):
    frames = [torch.randn(n, 8) for n in (37, 12, 3)]
    padded = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True, padding_value=9.0)
    together = listener(padded, torch.tensor([37, 12, 3]) / 37)
    for row, alone in enumerate(frames):
        output = listener(alone.unsqueeze(0), torch.ones(1))
        n_frames = output.frames.shape[1]
        torch.testing.assert_close(together.frames[row, :n_frames], output.frames[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.inner[row, :n_frames], output.inner[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_layers_are_pytorchs(listener):
    frames = torch.randn(2, 8, 8)
    hidden = listener.entrance(frames.reshape(2, 2, 32))
    near = torch.nn.functional.conv1d(
        hidden.transpose(1, 2), listener.near.weight, listener.near.bias, padding=2, groups=16
    )
    hidden = hidden + torch.nn.functional.gelu(near.transpose(1, 2))
    for layer in listener.layers[:2]:
        hidden = layer(hidden)
    output = listener(frames, torch.ones(2))
    torch.testing.assert_close(output.inner, listener.inner_norm(hidden), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.frames, listener.norm(listener.layers[2](hidden)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_saved_listener_hears_the_same(saved):
    speech, listener, folder = saved
    encoder = load_speech_encoder(folder).eval()
    assert isinstance(encoder, ListenerEncoder) and encoder.output_size == 16 + 32
    wavs, lens = torch.randn(2, 16000), torch.tensor([1.0, 0.6])
    expected = listener(*speech(wavs, lens))
    frames, frame_lens = encoder(wavs, lens)
    mask = valid_mask(frame_lens, frames.shape[1])
    torch.testing.assert_close(frame_lens, expected.lens)
    torch.testing.assert_close(frames[mask][:, :16], expected.frames[mask], atol=1e-5, rtol=0)
    one_by_one, _ = compute_frozen(encoder, wavs, lens)
    torch.testing.assert_close(one_by_one[mask], frames[mask], atol=1e-4, rtol=0)
    assert encoder.max_duration_s == speech.max_duration_s


@torch.no_grad()
def test_how_it_is_said_stands_behind_what_is_said(saved):
    speech, _, folder = saved
    wavs, lens = torch.randn(2, 16000), torch.tensor([1.0, 0.6])
    below, below_lens = speech(wavs, lens)
    frames, frame_lens = load_speech_encoder(folder).eval()(wavs, lens)
    for row, (n_below, n_frames) in enumerate(zip(n_valid(below_lens, 49), n_valid(frame_lens, 13), strict=True)):
        parts = below[row, :n_below].split(4)  # the last of them may be short
        means = torch.stack([part.mean(0) for part in parts])
        torch.testing.assert_close(frames[row, :n_frames, 16:], means, atol=1e-5, rtol=0)


@torch.no_grad()
def test_how_it_is_said_comes_from_below_the_layers_that_have_learnt_words(tiny_hubert, tmp_path):
    speech = load_speech_encoder(tiny_hubert, trainable_layers=1).eval()
    listener = Listener(speech.output_size, **SIZES).eval()
    save_listener(tmp_path, speech, listener)
    encoder = load_speech_encoder(tmp_path).eval()
    wavs, lens = torch.randn(1, 16000), torch.ones(1)
    frames, _ = encoder(wavs, lens)
    untouched, _ = speech.frozen_forward(wavs, lens)
    means = torch.stack([part.mean(0) for part in untouched[0].split(4)])
    torch.testing.assert_close(frames[0, :, 16:], means, atol=1e-5, rtol=0)
    torch.testing.assert_close(frames[..., :16], listener(*speech(wavs, lens)).frames, atol=1e-5, rtol=0)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.train().modules() if module is not encoder)
    configuration = encoder.configuration()
    assert configuration["learnt_layers"] == 1
    # A listener of before says nothing of it, and hears as it did.
    top = load_speech_encoder({name: part for name, part in configuration.items() if name != "learnt_layers"}).eval()
    top.load_state_dict(encoder.state_dict())
    above, _ = speech(wavs, lens)
    means = torch.stack([part.mean(0) for part in above[0].split(4)])
    torch.testing.assert_close(top(wavs, lens)[0][0, :, 16:], means, atol=1e-5, rtol=0)


@torch.no_grad()
def test_how_it_is_said_may_be_a_mix_of_layers(tiny_hubert, tmp_path):
    speech = load_speech_encoder(tiny_hubert, trainable_layers=1).eval()
    save_listener(tmp_path, speech, Listener(speech.output_size, **SIZES))
    encoder = load_speech_encoder(tmp_path, trainable_layers=2, layers="weighted").eval()
    encoder.mix.logits.copy_(torch.tensor([0.0, 1.0, 2.0]))  # what goes into the first, and two layers of three
    wavs, lens = torch.randn(2, 16000), torch.ones(2)
    states, _ = speech.hidden_states(wavs, lens)
    means = [torch.stack([part.mean(1) for part in state.split(4, dim=1)], dim=1) for state in states[:3]]
    weights = torch.tensor([0.0, 1.0, 2.0]).exp()
    mixed = sum(w * torch.nn.functional.layer_norm(mean, (32,)) for w, mean in zip(weights, means, strict=True))
    frames, _ = encoder(wavs, lens)
    assert frames.shape[2] == encoder.output_size == 16 + 32
    torch.testing.assert_close(frames[..., 16:], mixed / weights.sum(), atol=1e-5, rtol=0)
    plain, _ = load_speech_encoder(tmp_path).eval()(wavs, lens)
    torch.testing.assert_close(frames[..., :16], plain[..., :16], atol=1e-5, rtol=0)
    again = load_speech_encoder(json.loads(json.dumps(encoder.configuration()))).eval()
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again(wavs, lens)[0], frames, atol=1e-5, rtol=0)
    assert set(encoder.trainable_state()) > {"2.logits"}  # behind the two layers


def test_its_upper_layers_learn_and_nothing_below(saved):
    _, _, folder = saved
    encoder = load_speech_encoder(folder, trainable_layers=1)
    learning = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert learning and all(name.startswith("model.listener.layers.2.") for name in learning)
    wavs, lens = torch.randn(2, 16000), torch.ones(2)
    frozen, frozen_lens = encoder.eval().frozen_forward(wavs, lens)
    kept, _ = encoder(frozen, frozen_lens)
    torch.testing.assert_close(kept, encoder(wavs, lens)[0])


def test_it_is_made_again_from_what_it_says(saved):
    _, _, folder = saved
    encoder = load_speech_encoder(folder)
    configuration = json.loads(json.dumps(encoder.configuration()))
    assert configuration == json.loads((folder / LISTENER_CONFIG_FILE).read_text())
    again = load_speech_encoder(configuration)
    assert isinstance(again, ListenerEncoder)
    again.load_state_dict(encoder.state_dict())
    assert again.frozen_fingerprint() == encoder.frozen_fingerprint()


@pytest.mark.parametrize("change", ["weights of the listener", "weights below", "a size without weights"])
def test_all_that_is_heard_with_is_in_the_fingerprint(saved, change):
    _, _, folder = saved
    before = load_speech_encoder(folder).frozen_fingerprint()
    if change == "a size without weights":
        config = json.loads((folder / LISTENER_CONFIG_FILE).read_text())
        config["model"]["num_heads"] = 4
        (folder / LISTENER_CONFIG_FILE).write_text(json.dumps(config))
    else:
        weights = safetensors.torch.load_file(folder / LISTENER_WEIGHTS_FILE)
        part = "listener." if change.endswith("listener") else "speech."
        name = next(name for name in weights if name.startswith(part))
        weights[name] += 1
        safetensors.torch.save_file(weights, folder / LISTENER_WEIGHTS_FILE)
    assert load_speech_encoder(folder).frozen_fingerprint() != before


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        (LISTENER_CONFIG_FILE, "{", "listener.json is not JSON"),
        (LISTENER_CONFIG_FILE, "[]", "describes no listener"),
        (LISTENER_CONFIG_FILE, '{"model": {"model_type": "hubert"}, "speech": {}}', "describes no listener"),
        (LISTENER_WEIGHTS_FILE, "", "doesn't hold the weights"),
        (LISTENER_WEIGHTS_FILE, None, "doesn't hold the weights"),
    ],
)
def test_a_damaged_folder_is_one_sentence(saved, file, content, sentence):
    _, _, folder = saved
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(InputError, match=sentence) as caught:
        load_speech_encoder(folder)
    assert "again, which writes" in str(caught.value)


def test_weights_of_another_listener_are_refused(saved):
    speech, _, folder = saved
    save_listener(folder / "other", speech, Listener(speech.output_size, **(SIZES | {"num_layers": 2})))
    (folder / "other" / LISTENER_WEIGHTS_FILE).replace(folder / LISTENER_WEIGHTS_FILE)
    with pytest.raises(InputError, match="doesn't hold the weights"):
        load_speech_encoder(folder)


def test_a_listener_that_was_not_written_whole_is_none(saved, monkeypatch):
    speech, listener, folder = saved
    monkeypatch.setattr(safetensors.torch, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_listener(folder, speech, listener)
    assert not is_listener(folder)


def test_a_listener_that_is_not_there_yet_says_what_makes_it(tmp_path):
    with pytest.raises(InputError, match="listener does not exist: train the listener first"):
        load_speech_encoder(tmp_path / "results" / "words" / "1986" / "listener")
