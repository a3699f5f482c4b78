import json

import pytest
import torch
from transformers import AutoTokenizer, BertModel, BertTokenizerFast, PreTrainedTokenizerFast

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.encoder import n_valid, valid_mask
from ser_ts_lobes.lobes.lexical import Heard, greedy_pieces
from ser_ts_lobes.lobes.listener import LISTENER_CONFIG_FILE, Listener, save_listener
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.pieces import Pieces
from ser_ts_lobes.lobes.reader import can_read, make_reader
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from tests.tiny_models import TINY_WORDS

SIZES = {"hidden_size": 16, "num_layers": 3, "num_heads": 2}


@pytest.fixture
def pieces():
    return Pieces.fit([" ".join(TINY_WORDS), "good day it was", "not so bad"], n_pieces=40)


@pytest.fixture
def reader(pieces, tiny_bert):
    """Give a reader that takes the best piece of each frame as a vector with a 1 for it."""
    reader = make_reader(torch.nn.Linear(len(pieces), len(pieces)), pieces, TextEncoder(tiny_bert))
    torch.nn.init.eye_(reader.spell.weight)
    torch.nn.init.zeros_(reader.spell.bias)
    return reader


@pytest.fixture
def saved(tiny_hubert, tiny_bert, pieces, tmp_path):
    """Give the folder of a listener that reads, and the parts it is made from."""
    speech, listener = load_speech_encoder(tiny_hubert).eval(), Listener(32, **SIZES).eval()
    reader = make_reader(torch.nn.Linear(16, len(pieces)), pieces, TextEncoder(tiny_bert))
    save_listener(tmp_path / "reader", speech, listener, reader)
    return tmp_path / "reader", speech, listener, reader


def spell(pieces, *sentences, between=1):
    """Give what a reader hears of sentences, each piece for two frames with blanks between, and where words begin."""
    rows, firsts = [], []
    for sentence in sentences:
        ids, first = [0] * between, []
        for word in sentence.split():
            first.append(len(ids))
            for id in pieces.encode(word).tolist():
                ids += [id, id, *[0] * between]
        rows.append(torch.nn.functional.one_hot(torch.tensor(ids), len(pieces)).float())
        firsts.append(first)
    lens = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lens / lens.max(), firsts


@torch.no_grad()
def read_with_transformers(folder, sentence):
    """Give a vector a word: the mean of its tokens', by the original classes alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    batch = tokenizer(sentence.split(), is_split_into_words=True, return_tensors="pt")
    hidden = model(**batch).last_hidden_state[0]
    words = batch.word_ids()
    return [
        hidden[[token for token, of in enumerate(words) if of == word]].mean(0) for word in range(max(words[1:-1]) + 1)
    ]


def test_each_frame_has_the_vector_of_the_word_that_began_last(reader, pieces, tiny_bert):
    sentences = [
        "it was a very good day",
        "not awful",
        "we had wad lovely day",
    ]  # one word is unknown to the text encoder
    inner, lens, firsts = spell(pieces, *sentences)
    read = reader(inner, lens)
    assert read.shape == (*inner.shape[:2], 24) and not read.requires_grad
    for row, (sentence, first) in enumerate(zip(sentences, firsts, strict=True)):
        n_frames = int(n_valid(lens, inner.shape[1])[row])
        assert not read[row, : first[0]].any()
        for vector, start, end in zip(
            read_with_transformers(tiny_bert, sentence), first, [*first[1:], n_frames], strict=True
        ):
            torch.testing.assert_close(read[row, start:end], vector.expand(end - start, -1), atol=1e-5, rtol=0)


def test_what_is_read_does_not_depend_on_the_batch(reader, pieces):
    sentences = ["it was a very good day", "bad"]
    inner, lens, _ = spell(pieces, *sentences)
    inner[1, int(n_valid(lens, inner.shape[1])[1]) :, 5] = 9.0  # behind the end
    together = reader(inner, lens)
    for row, n_frames in enumerate(n_valid(lens, inner.shape[1]).tolist()):
        alone = reader(inner[row : row + 1, :n_frames], torch.ones(1))
        torch.testing.assert_close(together[row, :n_frames], alone[0], atol=1e-5, rtol=0)


def test_its_words_are_those_that_the_pieces_decode(reader, pieces):
    torch.manual_seed(0)
    inner, lens = torch.randn(20, 12, len(pieces)), torch.linspace(0.2, 1, 20)
    inner[..., [id for id, piece in enumerate(pieces.spellings()) if id and not piece]] = -9  # no transcript has these
    heard = Heard(inner, torch.zeros(20, 2), lens, torch.tensor(1.0))
    expected = [" ".join(pieces.decode(ids).split()) for ids in greedy_pieces(heard)]
    assert reader.words(inner, lens) == expected
    assert any(expected)


def test_silence_is_read_as_nothing(reader, pieces):
    inner = torch.zeros(1, 5, len(pieces))
    inner[..., 0] = 1
    assert not reader(inner, torch.ones(1)).any()
    assert reader.words(inner, torch.ones(1)) == [""]


def test_what_a_text_encoder_has_no_positions_for_is_not_read(reader, pieces):
    inner, lens, (first,) = spell(pieces, " ".join(["good"] * 60))  # of 40 positions, two are the first and the last
    read = reader(inner, lens)
    n_read = reader.max_tokens - 2
    torch.testing.assert_close(
        read[0, first[n_read] :], read[0, first[n_read - 1]].expand(inner.shape[1] - first[n_read], -1)
    )
    assert not read[0, first[n_read - 1]].equal(read[0, first[n_read - 2]])


@pytest.mark.parametrize("lowercase", [True, False])
def test_it_splits_words_as_the_text_encoder_does(tmp_path, tiny_bert, pieces, lowercase):
    (vocabulary := AutoTokenizer.from_pretrained(tiny_bert).get_vocab())
    BertModel.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    BertTokenizerFast(vocab=vocabulary, do_lower_case=lowercase).save_pretrained(tmp_path)
    text_encoder = TextEncoder(str(tmp_path))
    reader = make_reader(torch.nn.Linear(16, len(pieces)), pieces, text_encoder)
    for word in ["good", "Good", "it's", "d\u00e4y", "verygood", "\u4f60\u597d"]:
        found = reader.spellings.tokens(word)
        assert [reader.spellings.first, *found, reader.spellings.last] == text_encoder.tokenize(word).tolist()


def test_only_berts_own_tokens_can_be_read(tiny_bert):
    encoder = TextEncoder(tiny_bert)
    assert can_read(encoder)
    encoder.model.config.model_type = "roberta"
    assert not can_read(encoder)
    encoder = TextEncoder(tiny_bert)
    encoder.tokenizer = PreTrainedTokenizerFast(tokenizer_object=encoder.tokenizer.backend_tokenizer)
    assert not can_read(encoder)


@torch.no_grad()
def test_a_saved_listener_reads_the_same(saved):
    folder, speech, listener, reader = saved
    encoder = load_speech_encoder(folder).eval()
    assert encoder.output_size == 16 + 32 + 24
    wavs, lens = torch.randn(3, 16000), torch.tensor([1.0, 0.6, 0.3])
    heard = listener(*speech(wavs, lens))
    frames, frame_lens = encoder(wavs, lens)
    mask = valid_mask(frame_lens, frames.shape[1])
    torch.testing.assert_close(frames[mask][:, :16], heard.frames[mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(frames[mask][:, 48:], reader(heard.inner, heard.lens)[mask], atol=1e-5, rtol=0)
    assert frames[mask][:, 48:].any()
    one_by_one, _ = compute_frozen(encoder, wavs, lens)
    torch.testing.assert_close(one_by_one[mask], frames[mask], atol=1e-4, rtol=0)


def test_the_last_layer_may_learn_above_what_is_read(saved):
    folder, *_ = saved
    encoder = load_speech_encoder(folder, trainable_layers=1)
    learning = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert learning and all(name.startswith("model.listener.layers.2.") for name in learning)
    wavs, lens = torch.randn(2, 16000), torch.ones(2)
    kept, kept_lens = encoder.eval().frozen_forward(wavs, lens)
    torch.testing.assert_close(encoder(kept, kept_lens)[0], load_speech_encoder(folder).eval()(wavs, lens)[0])
    with pytest.raises(InputError, match="choose 0 to 1"):
        load_speech_encoder(folder, trainable_layers=2)


def test_all_that_is_read_with_is_in_the_fingerprint(saved):
    folder, *_ = saved
    encoder = load_speech_encoder(folder)
    before = encoder.frozen_fingerprint()
    configuration = json.loads(json.dumps(encoder.configuration()))
    assert configuration == json.loads((folder / LISTENER_CONFIG_FILE).read_text())
    again = load_speech_encoder(configuration)
    again.load_state_dict(encoder.state_dict())
    assert again.frozen_fingerprint() == before
    configuration["reader"]["lowercase"] = False
    cased = load_speech_encoder(configuration)
    cased.load_state_dict(encoder.state_dict())
    assert cased.frozen_fingerprint() != before
    again.model.reader.token_table[7, 0] += 1
    again._frozen_weights = None
    assert again.frozen_fingerprint() != before
