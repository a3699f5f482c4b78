import pytest
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.pieces import BLANK, Pieces, plain_words

SENTENCES = ["It was good!", "A good day.", "It was a bad day, it was.", "Is it not good?"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's GOOD -- isn't it?!", "it's good isn't it"),
        ("'quoted' rock 'n' roll", "quoted rock n roll"),
        ("don\u2019t", "don't"),
        ("Gr\u00fc\u00dfe, 3 caf\u00e9s", "gr\u00fc\u00dfe 3 caf\u00e9s"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947", "\u0928\u092e\u0938\u094d\u0924\u0947"),  # vowel signs are no letters
        (" -- ' ", ""),
    ],
)
def test_words_as_they_are_heard(text, words):
    assert plain_words(text) == words


def test_words_are_spelt_and_read_again():
    pieces = Pieces.fit(SENTENCES, n_pieces=25)
    for sentence in SENTENCES:
        ids = pieces.encode(sentence)
        assert ids.dtype == torch.int64 and ids.min() > BLANK and ids.max() < len(pieces)
        assert pieces.decode(ids.tolist()) == plain_words(sentence)
    assert pieces.encode("?!").shape == (0,)
    assert pieces.decode([BLANK, *pieces.encode("bad").tolist(), len(pieces)]) == "bad"


def test_the_same_sentences_give_the_same_pieces():
    first, second = (Pieces.fit(SENTENCES, n_pieces=25) for _ in range(2))
    assert first.model == second.model
    assert Pieces(first.model).encode("a good day").equal(first.encode("a good day"))


def test_few_sentences_give_fewer_pieces():
    assert len(Pieces.fit(SENTENCES, n_pieces=500)) < 100


def test_nothing_to_spell_is_one_sentence():
    with pytest.raises(InputError, match="no word in the training transcripts"):
        Pieces.fit(["...", ""], n_pieces=25)
    with pytest.raises(InputError, match="3 pieces can't spell.*choose a larger n_pieces"):
        Pieces.fit(SENTENCES, n_pieces=3)
    with pytest.raises(InputError, match="no SentencePiece model"):
        Pieces(b"nothing")
