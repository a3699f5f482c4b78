"""Pieces of words: what a listener learns to spell."""

import io
import unicodedata
from collections.abc import Iterable, Sequence

import sentencepiece
import torch

from ser_ts_lobes.errors import InputError

#: The id that stands for no piece (CTC's blank).
BLANK = 0


def plain_words(text: str) -> str:
    """Leave what is heard of a sentence: small letters, digits and apostrophes, in words.

    Example
    -------
    >>> plain_words("It's GOOD -- isn't it?!")
    "it's good isn't it"
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    # Letters, the marks that go with them, numbers.
    letters = "".join(char if char == "'" or unicodedata.category(char)[0] in "LMN" else " " for char in text)
    return " ".join(word.strip("'") for word in letters.split() if word.strip("'"))


class Pieces:
    """Some hundred pieces that words are spelt with, learnt from sentences (Kudo 2018: unigram language model).

    Parameters
    ----------
    model
        A SentencePiece model, as `fit` makes it and `model` keeps it.

    Attributes
    ----------
    model : bytes
        The same.

    Example
    -------
    >>> pieces = Pieces.fit(["it was good", "a good day", "it was a bad day"], n_pieces=20)
    >>> ids = pieces.encode("A good day!")
    >>> pieces.decode(ids.tolist())
    'a good day'
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise InputError("The pieces of words are no SentencePiece model: train the listener again.") from error

    @classmethod
    def fit(cls, sentences: Iterable[str], n_pieces: int) -> "Pieces":
        """Learn pieces.

        Parameters
        ----------
        sentences
            What is said in training.
        n_pieces
            How many at most; few sentences give fewer.

        Returns
        -------
        Pieces

        Raises
        ------
        InputError
            If there are no words, or more different letters than pieces.
        """
        plain = [text for text in map(plain_words, sentences) if text]
        if not plain:
            raise InputError("There is no word in the training transcripts: transcribe the speech first.")
        written = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(plain),
                model_writer=written,
                vocab_size=n_pieces,
                hard_vocab_limit=False,
                character_coverage=1.0,
                num_threads=1,  # the sums are done in one order
                minloglevel=2,
            )
        except RuntimeError as error:
            raise InputError(
                f"{n_pieces} pieces can't spell the training transcripts, whose letters are too many ({error}): choose "
                "a larger n_pieces."
            ) from error
        return cls(written.getvalue())

    def __len__(self) -> int:
        """Count the ids, `BLANK` among them."""
        return self._processor.vocab_size() + 1

    def encode(self, text: str) -> torch.Tensor:
        """Give the ids of a sentence, (U,) int64 above `BLANK`; U = 0 where there is no word."""
        return torch.tensor(self._processor.encode(plain_words(text)), dtype=torch.long) + 1

    def decode(self, ids: Sequence[int]) -> str:
        """Give the words of some ids; those that stand for no piece are left out."""
        return self._processor.decode([id - 1 for id in ids if BLANK < id < len(self)])

    def spellings(self) -> list[str]:
        """Give what each id stands for, with SentencePiece's mark where a word begins; "" where it spells nothing."""
        ids = range(self._processor.vocab_size())
        silent = (self._processor.is_control, self._processor.is_unknown, self._processor.is_unused)
        return [
            "",
            *("" if any(is_silent(id) for is_silent in silent) else self._processor.id_to_piece(id) for id in ids),
        ]
