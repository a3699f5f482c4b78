import pytest
import torch
from transformers import AutoModel

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.text import TextEncoder
from tests.tiny_models import save_tiny_bert, save_tiny_deberta, save_tiny_ssl


@pytest.fixture
def encoder(tmp_path):
    return TextEncoder(save_tiny_bert(tmp_path))


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_deberta])
def test_tokens_get_what_the_original_computes_whatever_the_batch(tmp_path, save):
    encoder = TextEncoder(save(tmp_path))
    sentences = ["it was a good day", "not so bad", ""]
    tokens = [encoder.tokenize(sentence) for sentence in sentences]
    longest = len(tokens[0])
    # Batches come padded with zeros; here with a real word instead, which must not be seen.
    batch = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row)), value=7) for row in tokens])
    hidden, _ = encoder(batch, torch.tensor([len(row) / longest for row in tokens]))
    assert encoder.tokenizer.unk_token_id not in torch.cat(tokens)
    original = AutoModel.from_pretrained(encoder.source).eval()
    for row, ids in zip(hidden, tokens, strict=True):
        with torch.no_grad():
            expected = original(ids.unsqueeze(0)).last_hidden_state[0]
        torch.testing.assert_close(row[: len(ids)], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_deberta])
def test_its_upper_layers_may_learn(tmp_path, save):
    source = save(tmp_path)
    encoder = TextEncoder(source, trainable_layers=1)
    tokens = encoder.tokenize("it was a good day").unsqueeze(0)
    hidden, lens = encoder.frozen_forward(tokens, torch.ones(1))
    vectors, _ = encoder(hidden, lens)
    torch.testing.assert_close(vectors, TextEncoder(source)(tokens, torch.ones(1))[0], rtol=0, atol=1e-5)
    vectors.square().sum().backward()
    learning = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert learning and all(name.startswith("model.encoder.layer.1.") for name in learning)


@torch.no_grad()
def test_what_has_learnt_is_written_whole_or_not_at_all(tmp_path, tiny_bert, monkeypatch):
    encoder = TextEncoder(tiny_bert, trainable_layers=1)
    encoder.layers[1].output.LayerNorm.bias += 1
    encoder.save(tmp_path)
    again = TextEncoder(tmp_path)
    tokens = encoder.tokenize("it was a good day")
    assert again.tokenize("it was a good day").equal(tokens)
    assert again(tokens.unsqueeze(0), torch.ones(1))[0].equal(encoder(tokens.unsqueeze(0), torch.ones(1))[0])

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder.tokenizer, "save_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        encoder.save(tmp_path)
    with pytest.raises(InputError):
        TextEncoder(tmp_path)


def test_a_convolution_among_the_layers_is_refused(tmp_path):
    with pytest.raises(InputError, match="has a convolution among its layers"):
        TextEncoder(save_tiny_deberta(tmp_path, conv_kernel_size=3))


def test_an_empty_transcript_is_an_empty_sentence(encoder):
    ids = encoder.tokenize("")
    assert encoder.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "[SEP]"]


def test_a_long_transcript_is_cut_at_what_the_model_takes(encoder):
    ids = encoder.tokenize("good " * 100)
    assert len(ids) == encoder.max_tokens == 40
    assert encoder(ids.unsqueeze(0), torch.ones(1))[0].shape == (1, 40, encoder.output_size)


def test_a_speech_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="'hubert'"):
        TextEncoder(save_tiny_ssl(tmp_path))
