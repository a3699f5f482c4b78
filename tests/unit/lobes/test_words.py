import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.words import WordEncoder

GLOVE = "good 1 2 3\nday -1 0 0.5\nat name@domain.com 7 7 7\nat 4 5 6\n. 9 9 9\n"


def write(folder, text):
    path = folder / "vectors.txt"
    path.write_text(text, encoding="utf-8")
    return path


def encode(encoder, *texts):
    rows = [encoder.tokenize(text) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return encoder(ids, torch.tensor([len(row) / ids.shape[1] for row in rows]))


@pytest.mark.parametrize("text", [GLOVE, "5 3\n" + GLOVE.replace("\n", " \n")], ids=["GloVe", "fastText"])
def test_each_word_gets_its_own_vector(tmp_path, text):
    encoder = WordEncoder(write(tmp_path, text), size=3)
    encoder.fit(["Good day, Zed!", "At: 5"])
    vectors, lens = encode(encoder, "DAY... good", "at zed, zed")
    assert vectors[0].tolist() == [[-1, 0, 0.5], [1, 2, 3], [0, 0, 0]]
    assert vectors[1].tolist() == [[4, 5, 6], [0, 0, 0], [0, 0, 0]]
    assert lens.tolist() == [pytest.approx(2 / 3), 1]


def test_words_that_training_does_not_know_are_left_out(tmp_path):
    encoder = WordEncoder(write(tmp_path, GLOVE), size=3)
    encoder.fit(["a good day"])
    assert encoder.tokenize("good at day").equal(encoder.tokenize("good day"))
    for nothing in ("at", "", " ?! "):
        vectors, _ = encode(encoder, nothing)
        assert vectors.tolist() == [[[0, 0, 0]]]


def test_an_apostrophe_is_part_of_its_word(tmp_path):
    encoder = WordEncoder(write(tmp_path, "don't 1 1\ndon 2 2\nt 3 3\n"), size=2)
    encoder.fit(["(don't)"])
    assert encode(encoder, "DON'T!")[0].tolist() == [[[1, 1]]]


def test_vectors_learn_but_padding_does_not(tmp_path):
    encoder = WordEncoder(write(tmp_path, GLOVE), size=3)
    encoder.fit(["good day zed"])
    vectors, _ = encode(encoder, "zed good", "day")
    vectors.sum().backward()
    [gradient] = [parameter.grad for parameter in encoder.parameters()]
    assert gradient[0].tolist() == [0, 0, 0]
    assert (gradient[1:] == 1).all()


def test_what_was_learnt_is_restored(tmp_path):
    path = write(tmp_path, GLOVE)
    encoder, other = WordEncoder(path, size=3), WordEncoder(path, size=3)
    for either in (encoder, other):
        either.fit(["good day zed"])
    with torch.no_grad():
        encoder.model.embedding.weight[1:] += 1
    Checkpointer(tmp_path / "save", {"words": encoder}).save_checkpoint()
    Checkpointer(tmp_path / "save", {"words": other}).recover_if_possible()
    assert encode(other, "good")[0].tolist() == [[[2, 3, 4]]]


def test_a_checkpoint_of_other_words_is_refused(tmp_path):
    path = write(tmp_path, GLOVE)
    encoder, other = WordEncoder(path, size=3), WordEncoder(path, size=3)
    encoder.fit(["good day"])
    other.fit(["good at"])
    Checkpointer(tmp_path / "save", {"words": encoder}).save_checkpoint()
    with pytest.raises(InputError, match="trained on top of another encoder"):
        Checkpointer(tmp_path / "save", {"words": other}).recover_if_possible()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good 1 2\n", "line 1: expected a word and 3 numbers"),
        ("day 1 2 3\ngood 1 x 3\n", "line 2: expected a word and 3 numbers"),
        ("good 1 nan 3\n", "line 1: expected a word and 3 numbers"),
        ("bad 1 2 3\n", "no vector of 3 numbers for any word"),
        ("good 0 1 2 3\n", "no vector of 3 numbers for any word"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, message):
    encoder = WordEncoder(write(tmp_path, text), size=3)
    with pytest.raises(InputError, match=message):
        encoder.fit(["good day"])


def test_an_encoder_without_words_reads_nothing(tmp_path):
    with pytest.raises(InputError, match="knows no words yet: fit it to the training transcripts"):
        WordEncoder(write(tmp_path, GLOVE), size=3).tokenize("good day")


def test_transcripts_without_words_are_refused(tmp_path):
    with pytest.raises(InputError, match="no word in the training transcripts"):
        WordEncoder(write(tmp_path, GLOVE), size=3).fit(["", "..."])


def test_a_missing_file_says_where_to_get_one(tmp_path):
    with pytest.raises(InputError, match="glove.840B.300d.txt"):
        WordEncoder(tmp_path / "none.txt")
