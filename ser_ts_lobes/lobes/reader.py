"""A reader: a text encoder that reads the words which a listener hears."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import BertTokenizerFast

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.encoder import model_config, run_masked, valid_mask
from ser_ts_lobes.lobes.pieces import BLANK, Pieces
from ser_ts_lobes.lobes.text import TextEncoder

# What a piece begins with that begins a word (SentencePiece's own mark).
_WORD_START = "\u2581"


class Reader(torch.nn.Module):
    """Reads what a listener hears: the most likely pieces of words become words, and these a text encoder's vectors.

    All of it is frozen: a choice of words has no gradient. Pieces and tokens are kept as tensors, so that weights are
    all that a reader needs besides its sizes.

    Parameters
    ----------
    hidden_size
        Size of the listener's frames.
    n_pieces, piece_width
        Pieces, the blank among them, and the bytes of the longest.
    n_tokens, token_width
        Tokens of the text encoder, and the bytes of the longest.
    lowercase
        Whether its tokenizer takes capitals and accents away.
    text
        Configuration of the text encoder, a BERT with WordPiece tokens: ``{"model": {...}}``, as
        `ser_ts_lobes.lobes.encoder.Encoder.configuration` gives it.

    Example
    -------
    >>> pieces = Pieces.fit(["it was good", "a good day"], n_pieces=18)
    >>> reader = make_reader(torch.nn.Linear(16, len(pieces)), pieces, TextEncoder(getfixture("tiny_bert")))
    >>> reader(torch.randn(2, 13, 16), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 13, 24])
    """

    piece_table: torch.Tensor
    token_table: torch.Tensor

    def __init__(
        self,
        hidden_size: int,
        n_pieces: int,
        piece_width: int,
        n_tokens: int,
        token_width: int,
        lowercase: bool,
        text: dict[str, Any],
    ) -> None:
        from transformers import BertModel  # here, for who loads another encoder should not wait for it

        super().__init__()
        config = model_config(text)
        if config.model_type != "bert":
            raise InputError(f"A reader's text encoder is a BERT, and not a {config.model_type}.")
        #: For JSON: what makes another of the same shape.
        self.sizes = {
            "hidden_size": hidden_size,
            "n_pieces": n_pieces,
            "piece_width": piece_width,
            "n_tokens": n_tokens,
            "token_width": token_width,
            "lowercase": lowercase,
            "text": text,
        }
        self.output_size: int = config.hidden_size
        self.max_tokens: int = config.max_position_embeddings
        self.spell = torch.nn.Linear(hidden_size, n_pieces)
        self.text = BertModel(config, add_pooling_layer=False)
        # Of no file, so they have values also where the rest is made on the meta device and gets its weights later.
        for name in ("position_ids", "token_type_ids"):
            values = torch.arange(self.max_tokens, device="cpu").unsqueeze(0) * (name == "position_ids")
            self.text.embeddings.register_buffer(name, values, persistent=False)
        self.register_buffer("piece_table", torch.zeros(n_pieces, piece_width, dtype=torch.uint8))
        self.register_buffer("token_table", torch.zeros(n_tokens, token_width, dtype=torch.uint8))
        self._spellings: _Spellings | None = None

    @torch.no_grad()
    def forward(self, inner: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Read.

        Parameters
        ----------
        inner
            (B, T, hidden_size), of `ser_ts_lobes.lobes.listener.ListenerOutput`.
        lens
            (B,), relative lengths.

        Returns
        -------
        torch.Tensor
            (B, T, output_size): at each frame, the text encoder's vector of the word that has begun last, which is the
            mean of its tokens'; zero before the first word.
        """
        sentences = [self.spellings.split(row) for row in self._best_pieces(inner, lens)]
        longest = max(len(sentence.tokens) for sentence in sentences)
        tokens = torch.zeros(len(sentences), longest, dtype=torch.long, device=inner.device)
        # Of each frame: the share that each token has in it.
        shares = torch.zeros(len(sentences), inner.shape[1], longest, device=inner.device)
        for row, (ids, spans) in enumerate(sentences):
            tokens[row, : len(ids)] = torch.tensor(ids)
            for first_frame, first_token, end_token in spans:
                shares[row, first_frame:] = 0  # the word before ends here
                shares[row, first_frame:, first_token:end_token] = 1 / (end_token - first_token)
        n_tokens = torch.tensor([len(sentence.tokens) for sentence in sentences], device=inner.device)
        vectors = run_masked(
            self.text.encoder.layer, self.text.config, self.text.embeddings(input_ids=tokens), n_tokens / longest
        )
        return torch.einsum("btl,bld->btd", shares, vectors.to(shares.dtype))

    def _best_pieces(self, inner, lens):
        """Tell the most likely piece of each frame, row by row; blank behind the end."""
        return self.spell(inner).argmax(dim=-1).masked_fill(~valid_mask(lens, inner.shape[1]), BLANK).tolist()

    @property
    def spellings(self) -> "_Spellings":
        """How pieces become words and words tokens; made of the tables when it is first asked for."""
        if self._spellings is None:
            pieces, tokens = _read_table(self.piece_table), _read_table(self.token_table)
            self._spellings = _Spellings(pieces, tokens, bool(self.sizes["lowercase"]), self.max_tokens)
        return self._spellings

    def words(self, inner: torch.Tensor, lens: torch.Tensor) -> list[str]:
        """Give the words that are read of a batch (see `forward`), a sentence an utterance."""
        best = self._best_pieces(inner, lens)
        return [" ".join(word for word, _ in self.spellings.words(row)) for row in best]

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._spellings = None  # the tables may be others
        super()._load_from_state_dict(*arguments)


class _Sentence(NamedTuple):
    """Tokens of a sentence, and of each word the frame where it begins, its first token and the one behind it."""

    tokens: list[int]
    spans: list[tuple[int, int, int]]


class _Spellings:
    """From pieces to words, and from words to the tokens of a BERT."""

    def __init__(self, pieces: Sequence[str], tokens: Sequence[str], lowercase: bool, max_tokens: int) -> None:
        self.pieces = pieces
        self.max_tokens = max_tokens
        ids = {token: id for id, token in enumerate(tokens)}
        lacking = {"[CLS]", "[SEP]", "[UNK]"} - set(tokens)
        if lacking:
            raise InputError(f"The reader's tokens lack {', '.join(sorted(lacking))}: train the listener again.")
        self.first, self.last = ids["[CLS]"], ids["[SEP]"]
        self._tokenizer = BertTokenizerFast(vocab=ids, do_lower_case=lowercase)

    def words(self, best: Sequence[int]) -> list[tuple[str, int]]:
        """Give the words of the best piece of each frame, each with the frame where it begins."""
        words: list[tuple[str, int]] = []
        before = BLANK
        for frame, id in enumerate(best):
            piece = self.pieces[id]
            if id != before and piece:
                if piece.startswith(_WORD_START) or not words:
                    words.append((piece.removeprefix(_WORD_START), frame))
                else:
                    words[-1] = (words[-1][0] + piece, words[-1][1])
            before = id
        return [(word, frame) for word, frame in words if word]

    def tokens(self, word: str) -> list[int]:
        """Give the tokens of a word, without those that go around a sentence."""
        ids: list[int] = self._tokenizer.encode(word, add_special_tokens=False)
        return ids

    def split(self, best: Sequence[int]) -> _Sentence:
        """Give the tokens of the best piece of each frame; what a BERT has no positions for is left out."""
        tokens, spans = [self.first], []
        for word, frame in self.words(best):
            ids = self.tokens(word)[: self.max_tokens - 1 - len(tokens)]
            if ids:
                spans.append((frame, len(tokens), len(tokens) + len(ids)))
                tokens += ids
        return _Sentence([*tokens, self.last], spans)


def can_read(text_encoder: TextEncoder) -> bool:
    """Tell whether a text encoder can be a reader's: a BERT with BERT's own tokenizer (WordPiece)."""
    return text_encoder.model.config.model_type == "bert" and isinstance(text_encoder.tokenizer, BertTokenizerFast)


def make_reader(spell: torch.nn.Linear, pieces: Pieces, text_encoder: TextEncoder) -> Reader:
    """Make a reader of what a listener was taught with.

    Parameters
    ----------
    spell
        Tells the pieces (`ser_ts_lobes.lobes.lexical.LexicalHeads.pieces`).
    pieces
        What they spell.
    text_encoder
        Reads; one that `can_read`.

    Returns
    -------
    Reader
    """
    pipeline = text_encoder.tokenizer.backend_tokenizer
    id_of = pipeline.get_vocab(with_added_tokens=True)
    spellings = pieces.spellings()
    spellings += [""] * (spell.out_features - len(spellings))  # few sentences give fewer than are asked for
    piece_table = _write_table(spellings)
    token_table = _write_table(sorted(id_of, key=id_of.__getitem__))
    reader = Reader(
        hidden_size=spell.in_features,
        n_pieces=piece_table.shape[0],
        piece_width=piece_table.shape[1],
        n_tokens=token_table.shape[0],
        token_width=token_table.shape[1],
        lowercase=bool(getattr(pipeline.normalizer, "lowercase", False)),
        text=text_encoder.configuration(),
    )
    text = {name: weight for name, weight in text_encoder.model.state_dict().items() if not name.startswith("pooler.")}
    parts = {"spell": spell.state_dict(), "text": text}
    weights = {f"{part}.{name}": weight for part, state in parts.items() for name, weight in state.items()}
    reader.load_state_dict({**weights, "piece_table": piece_table, "token_table": token_table})
    return reader.eval().requires_grad_(False)


def _write_table(texts: Sequence[str]) -> torch.Tensor:
    """Write texts as rows of bytes with zeros behind: (N, longest), uint8."""
    rows = [torch.tensor(list(text.encode()), dtype=torch.uint8) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _read_table(table: torch.Tensor) -> list[str]:
    """Read what `_write_table` wrote; bytes that are no text become marks of that."""
    return [row.rstrip(b"\0").decode(errors="replace") for row in map(bytes, table.cpu().numpy())]
