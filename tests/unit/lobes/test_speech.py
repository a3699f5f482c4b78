import pytest
import torch
from transformers import AutoModel, WhisperFeatureExtractor, WhisperModel

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.encoder import Encoder
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.speech import SpeechEncoder, WhisperEncoder, load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from tests.tiny_models import save_tiny_bert, save_tiny_ssl, save_tiny_whisper

STYLES = [(kind, style) for kind in ("hubert", "wav2vec2", "wavlm") for style in ("base", "large")]
SECOND = 16000


@pytest.fixture(scope="module", params=[*STYLES, ("whisper", "")], ids="-".join)
def source(request, tmp_path_factory):
    kind, style = request.param
    folder = tmp_path_factory.mktemp(kind)
    return save_tiny_whisper(folder) if kind == "whisper" else save_tiny_ssl(folder, kind, style)


def one_by_one(encoder, wavs, lens):
    return encoder(*compute_frozen(encoder, wavs, lens))


def together(encoder, wavs, lens):
    return encoder(wavs, lens)


both_ways = pytest.mark.parametrize("encode", [one_by_one, together], ids=["one by one", "together"])


def speech(n_samples):
    # An offset and a level of its own, so that normalisation matters.
    return 0.1 * torch.randn(n_samples) + 0.05


def pad(*wavs):
    longest = max(len(wav) for wav in wavs)
    batch = torch.stack([torch.nn.functional.pad(wav, (0, longest - len(wav))) for wav in wavs])
    return batch, torch.tensor([len(wav) / longest for wav in wavs])


@both_ways
@pytest.mark.parametrize("n_samples", [SECOND, SECOND + 137, 500])
def test_frames_do_not_depend_on_the_batch(source, n_samples, encode):
    encoder = load_speech_encoder(source)
    short, long = speech(n_samples), 5 * speech(3 * SECOND)
    alone, _ = encode(encoder, *pad(short))
    frames, lens = encode(encoder, *pad(long, short))
    n_frames = alone.shape[1]
    assert round(float(lens[1] * frames.shape[1])) == n_frames
    torch.testing.assert_close(frames[1, :n_frames], alone[0], rtol=0, atol=1e-4)
    assert not frames[1, n_frames:].any()


@both_ways
def test_what_lies_in_the_padding_does_not_matter(source, encode):
    encoder = load_speech_encoder(source)
    batch, lens = pad(speech(2 * SECOND), speech(SECOND))
    clean, _ = encode(encoder, batch, lens)
    batch[1, SECOND:] = 3.0
    dirty, _ = encode(encoder, batch, lens)
    torch.testing.assert_close(dirty, clean, rtol=0, atol=1e-5)


@torch.no_grad()
def test_weighted_layers_begin_as_a_plain_mean_of_all(source):
    batch = pad(speech(SECOND))
    states, _ = load_speech_encoder(source).hidden_states(*batch)
    deviations = [state - state.mean(-1, keepdim=True) for state in states]
    normalised = [each / torch.sqrt(each.square().mean(-1, keepdim=True) + 1e-5) for each in deviations]
    for trainable_layers in (0, 2):
        frames, _ = load_speech_encoder(source, trainable_layers, layers="weighted").eval()(*batch)
        torch.testing.assert_close(frames, sum(normalised) / len(states), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "style"), STYLES)
def test_one_clip_gets_what_the_original_computes(tmp_path, kind, style):
    source = save_tiny_ssl(tmp_path, kind, style)
    wav = speech(SECOND)
    standardised = (wav - wav.mean()) / torch.sqrt(wav.var(correction=0) + 1e-7)
    with torch.no_grad():
        original = AutoModel.from_pretrained(source).eval()(standardised.unsqueeze(0), output_hidden_states=True)
        states, lens = load_speech_encoder(source).hidden_states(*pad(wav))
    assert lens == 1
    expected = [*original.hidden_states[:-1], original.last_hidden_state]  # a last layer norm is in this one alone
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)
    frames, _ = SpeechEncoder(source)(*pad(wav))
    torch.testing.assert_close(frames, original.last_hidden_state, rtol=0, atol=1e-4)


def test_the_weights_of_layers_learn_also_where_no_layer_does(source):
    encoder = load_speech_encoder(source, layers="weighted")
    hidden, lens = encoder.frozen_forward(*pad(speech(SECOND)))
    n_states = len(encoder.layers) + 1
    assert hidden.shape[2] == n_states * encoder.output_size
    frames, _ = encoder(hidden, lens)  # as from kept features
    assert frames.shape[2] == encoder.output_size
    frames.square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is not None] == ["mix.logits"]
    with torch.no_grad():
        encoder.mix.logits[1] = 100.0  # that is all of what comes out of the first layer
    first = hidden.unflatten(-1, (n_states, -1))[:, :, 1]
    expected = torch.nn.functional.layer_norm(first, first.shape[-1:])
    torch.testing.assert_close(encoder(hidden, lens)[0], expected, rtol=0, atol=1e-5)


def test_weighted_layers_do_not_depend_on_the_batch(source):
    encoder = load_speech_encoder(source, trainable_layers=1, layers="weighted").eval()
    short, long = speech(SECOND), 5 * speech(3 * SECOND)
    alone, _ = one_by_one(encoder, *pad(short))
    for encode in (one_by_one, together):
        frames, _ = encode(encoder, *pad(long, short))
        torch.testing.assert_close(frames[1, : alone.shape[1]], alone[0], rtol=0, atol=1e-4)


def test_a_nonsense_choice_of_layers_is_refused(tmp_path):
    with pytest.raises(InputError, match="layers is 'first'; choose last or weighted"):
        load_speech_encoder(save_tiny_ssl(tmp_path), layers="first")


def test_whisper_gets_what_the_original_computes_for_a_full_window(tmp_path):
    source = save_tiny_whisper(tmp_path)
    wav = speech(10 * SECOND)
    features = WhisperFeatureExtractor.from_pretrained(source)(wav.numpy(), sampling_rate=SECOND, return_tensors="pt")
    with torch.no_grad():
        original = WhisperModel.from_pretrained(source).encoder.eval()
        expected = original(features.input_features).last_hidden_state
    frames, _ = WhisperEncoder(source)(*pad(wav))
    torch.testing.assert_close(frames, expected, rtol=0, atol=5e-4)


def test_whisper_refuses_more_than_its_window(tmp_path):
    with pytest.raises(InputError, match=r"at most 10 s, and a clip of 10\.5 s"):
        WhisperEncoder(save_tiny_whisper(tmp_path))(*pad(speech(int(10.5 * SECOND))))


@pytest.mark.parametrize("compute", [compute_frozen, Encoder.frozen_forward], ids=["one by one", "together"])
def test_frozen_and_trainable_part_make_the_whole(source, compute):
    batch = pad(speech(2 * SECOND), speech(SECOND))
    whole, lens = load_speech_encoder(source)(*batch)
    encoder = load_speech_encoder(source, trainable_layers=1).eval()
    hidden, hidden_lens = compute(encoder, *batch)
    assert not torch.allclose(hidden, whole)
    assert hidden_lens.equal(lens)
    # Frames beyond the end are anything in a trainable part: pooling never sees them.
    n_short = round(float(lens[1] * whole.shape[1]))
    for parts in (encoder.trainable_forward(hidden, lens), encoder(hidden, lens)[0], encoder(*batch)[0]):
        torch.testing.assert_close(parts[0], whole[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(parts[1, :n_short], whole[1, :n_short], rtol=0, atol=1e-5)


def test_only_the_top_layers_learn(source):
    encoder = load_speech_encoder(source, trainable_layers=1)
    frames, _ = encoder(*pad(speech(SECOND)))
    frames.square().sum().backward()
    learning = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    top = {id(parameter) for parameter in encoder.layers[-1].parameters()}
    assert learning == {name for name, parameter in encoder.named_parameters() if id(parameter) in top}


def test_the_frozen_part_has_no_dropout_in_training(tmp_path):
    encoder = load_speech_encoder(save_tiny_ssl(tmp_path), trainable_layers=1).train()
    batch = pad(speech(SECOND))
    assert encoder.frozen_forward(*batch)[0].equal(encoder.frozen_forward(*batch)[0])
    assert not encoder(*batch)[0].equal(encoder(*batch)[0])


def test_fingerprint_names_the_frozen_part(tmp_path):
    source = save_tiny_ssl(tmp_path)
    encoder = SpeechEncoder(source, trainable_layers=1)
    fingerprint = encoder.frozen_fingerprint()
    assert SpeechEncoder(source, trainable_layers=2).frozen_fingerprint() != fingerprint
    other = SpeechEncoder(source, trainable_layers=1)
    with torch.no_grad():
        other.layers[-1].final_layer_norm.bias.add_(1)
    assert other.frozen_fingerprint() == fingerprint
    changed = SpeechEncoder(source, trainable_layers=1)
    with torch.no_grad():
        changed.layers[0].final_layer_norm.bias.add_(1e-3)
    assert changed.frozen_fingerprint() != fingerprint


@pytest.mark.parametrize("trainable_layers", [-1, 4])
def test_number_of_trainable_layers_is_checked(tmp_path, trainable_layers):
    with pytest.raises(InputError, match="3 transformer layers that can learn: choose 0 to 3"):
        load_speech_encoder(save_tiny_ssl(tmp_path), trainable_layers)


@pytest.mark.parametrize("save", [save_tiny_ssl, save_tiny_whisper, save_tiny_bert])
def test_too_many_trainable_layers_are_refused_before_weights_are_read(tmp_path, save):
    source = save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    load = TextEncoder if save is save_tiny_bert else load_speech_encoder
    with pytest.raises(
        InputError, match="trainable_layers is 9, but .* transformer layers that can learn: choose 0 to"
    ):
        load(source, trainable_layers=9)


def test_a_text_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a 'bert' model"):
        load_speech_encoder(save_tiny_bert(tmp_path))


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(InputError, match="no_such_model"):
        load_speech_encoder(str(tmp_path / "no_such_model"))


@pytest.mark.parametrize("layers", ["last", "weighted"])
def test_a_checkpoint_holds_what_learns_and_fits_one_encoder(tmp_path, layers):
    source = save_tiny_ssl(tmp_path / "a")
    encoder = SpeechEncoder(source, trainable_layers=1, layers=layers)
    with torch.no_grad():
        encoder.layers[-1].final_layer_norm.bias.add_(1)
        if encoder.mix is not None:
            encoder.mix.logits[0].add_(1)
    encoder._save(tmp_path / "encoder.ckpt")
    again = SpeechEncoder(source, trainable_layers=1, layers=layers)
    again._recover(tmp_path / "encoder.ckpt", end_of_epoch=True)
    batch = pad(speech(SECOND))
    assert again.eval()(*batch)[0].equal(encoder.eval()(*batch)[0])
    other = SpeechEncoder(save_tiny_ssl(tmp_path / "b", style="large"), trainable_layers=1)
    with pytest.raises(InputError, match="another encoder"):
        other._recover(tmp_path / "encoder.ckpt", end_of_epoch=True)
    mixing = SpeechEncoder(source, trainable_layers=1, layers="last" if layers == "weighted" else "weighted")
    with pytest.raises(InputError, match="another encoder"):
        mixing._recover(tmp_path / "encoder.ckpt", end_of_epoch=True)
    configured = load_speech_encoder(encoder.configuration(), trainable_layers=1)
    configured.load_state_dict(encoder.state_dict())
    assert configured.eval()(*batch)[0].equal(again(*batch)[0])
