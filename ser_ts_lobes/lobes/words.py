"""Word embeddings: pretrained vectors of the words that the training transcripts use, which go on learning."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.logger import get_logger
from transformers import PretrainedConfig

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.encoder import Encoder

logger = get_logger(__name__)

_PADDING = 0
# What Keras' Tokenizer takes for a space. An apostrophe is part of its word.
_SEPARATORS = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))


class WordEncoder(Encoder):
    r"""A vector for each word of a transcript, in the place of a pretrained text encoder.

    The words are those of the training transcripts (`fit`). One that the file has no vector for starts at zero
    and learns; one that training does not know is left out of a transcript, as by Keras' Tokenizer; what is left
    without a word is one zero vector. Case and punctuation do not count.

    Parameters
    ----------
    source
        Text file of GloVe or fastText: a word and its numbers a line, fastText's after a line with their count.
    size
        Numbers a word (Atmaja and Akagi 2020: 300).

    Example
    -------
    >>> path = getfixture("tmp_path") / "vectors.txt"
    >>> _ = path.write_text("good 1 0\nday 0 1\nnight 1 1\n")
    >>> encoder = WordEncoder(path, size=2)
    >>> encoder.fit(["A good day!", "Good."])
    >>> ids = encoder.tokenize("good day, good night")
    >>> ids  # of 1: a, 2: day, 3: good
    tensor([3, 2, 3])
    >>> vectors, lens = encoder(ids.unsqueeze(0), torch.ones(1))
    >>> vectors.tolist()
    [[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]
    """

    computes_frozen = False

    def __init__(self, source: str | Path, size: int = 300) -> None:
        if not Path(source).is_file():
            raise InputError(
                f"{source} does not exist: name a text file of word vectors, such as glove.840B.300d.txt (from "
                "nlp.stanford.edu/projects/glove) or crawl-300d-2M.vec (from fasttext.cc), unpacked."
            )
        self._size = size
        self._id_of: dict[str, int] = {}
        super().__init__(source, trainable_layers=1)

    def _load(self, source, config):
        model = torch.nn.Module()
        model.config = PretrainedConfig(hidden_size=self._size)
        model.embedding = torch.nn.Embedding(1, self._size, padding_idx=_PADDING)
        return model

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The vectors, as the one layer that learns."""
        return torch.nn.ModuleList([self.model.embedding])

    def fit(self, training_set: Iterable[str]) -> None:
        """Take the words of the training transcripts, and their vectors from the file.

        Parameters
        ----------
        training_set
            Transcripts of the training set.

        Raises
        ------
        InputError
            If there are no words, or the file holds something else than vectors of this size or knows none of them.
        """
        words = sorted({word for transcript in training_set for word in _words(transcript)})
        if not words:
            raise InputError("There is no word in the training transcripts: prepare and transcribe the corpus again.")
        self._id_of = {word: id for id, word in enumerate(words, _PADDING + 1)}
        found = _read_vectors(self.source, self._id_of, self._size)
        vectors = torch.zeros(len(words) + 1, self._size)
        for word, vector in found.items():
            vectors[self._id_of[word]] = torch.from_numpy(vector)
        self.model.embedding = torch.nn.Embedding.from_pretrained(vectors, freeze=False, padding_idx=_PADDING)
        logger.info(f"{len(words)} words in the training transcripts; {self.source} has {len(found)} of them.")

    def tokenize(self, text: str) -> torch.Tensor:
        """Ids of the words of one transcript that training knows.

        Parameters
        ----------
        text
            A transcript.

        Returns
        -------
        torch.Tensor
            (T,), int64; T >= 1, for nothing is one zero vector.

        Raises
        ------
        InputError
            If the encoder has no words yet.
        """
        if not self._id_of:
            raise InputError(f"The encoder of {self.source} knows no words yet: fit it to the training transcripts.")
        ids = [self._id_of[word] for word in _words(text) if word in self._id_of]
        return torch.tensor(ids or [_PADDING], dtype=torch.long)

    def frozen_forward(self, inputs: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the word ids, (B, T) int64, as they are: nothing is frozen but the words' numbering."""
        return inputs, lens

    def _run_layers(self, hidden, lens, layers):
        for layer in layers:
            hidden = layer(hidden)
        return hidden

    def _frozen_settings(self):
        return {"words": list(self._id_of)}  # their order makes the ids


def _words(text):
    return text.lower().translate(_SEPARATORS).split()


def _read_vectors(path, words, size):
    """Read the vectors of some words: word -> (size,) float32."""
    vectors: dict[str, np.ndarray] = {}
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            is_header = number == 1 and len(line.split()) == 2
            # The first word of the line decides, for splitting all of a large file takes minutes.
            if is_header or line.partition(" ")[0] not in words:
                continue
            word, *numbers = line.rstrip().rsplit(" ", size)
            if word not in words:  # an entry of GloVe that has spaces, such as "at name@domain.com"
                continue
            try:
                vector = np.array(numbers, dtype=np.float32)
            except ValueError:
                vector = np.array([])
            if len(vector) != size or not np.isfinite(vector).all():
                raise InputError(f"{path}, line {number}: expected a word and {size} numbers: name another file.")
            vectors.setdefault(word, vector)
    if not vectors:
        raise InputError(f"{path} has no vector of {size} numbers for any word of the training transcripts.")
    return vectors
