"""Text encoders: BERT, RoBERTa, DeBERTa."""

import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import make_folder, temporary_folder
from ser_ts_lobes.fingerprint import fingerprint
from ser_ts_lobes.lobes.encoder import Encoder, load_pretrained, read_model_config, run_masked, valid_mask


class TextEncoder(Encoder):
    """Token vectors of a pretrained BERT-architecture encoder (paper, section 3.1).

    Parameters
    ----------
    source
        Hub name (``bert-base-uncased``) or local folder of a BERT, RoBERTa or DeBERTa (version 2 or 3) model.
    trainable_layers
        How many transformer layers, counted from the top, learn (0: none, as in the paper).

    Example
    -------
    >>> encoder = TextEncoder(getfixture("tiny_bert"))
    >>> tokens = encoder.tokenize("it was good")
    >>> hidden, lens = encoder(tokens.unsqueeze(0), torch.ones(1))
    >>> hidden.shape == (1, len(tokens), encoder.output_size)
    True
    """

    def __init__(self, source: str | Path, trainable_layers: int = 0) -> None:
        architectures = ("bert", "roberta", "xlm-roberta", "deberta-v2")
        config = read_model_config(source, architectures, "a text encoder must be a BERT, RoBERTa or DeBERTa")
        super().__init__(source, trainable_layers, config=config)
        if getattr(self.model.encoder, "conv", None) is not None:
            raise InputError(f"{source!r} has a convolution among its layers, which is not supported.")
        self.tokenizer = load_pretrained(AutoTokenizer, source)
        self._tokenizer_fingerprint = _fingerprint_tokenizer(self.tokenizer)
        self.max_tokens = self.model.config.max_position_embeddings
        if config.model_type.endswith("roberta"):
            self.max_tokens -= self.model.config.pad_token_id + 1  # its positions start behind the padding's

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The transformer layers, bottom first."""
        return self.model.encoder.layer

    def tokenize(self, text: str) -> torch.Tensor:
        """Token ids of one transcript, with the special tokens; a longer one is cut at `max_tokens`.

        Parameters
        ----------
        text
            An empty transcript is an empty sentence: the special tokens alone.

        Returns
        -------
        torch.Tensor
            (T,), int64.
        """
        ids = self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer in transformers' format, which a `source` may be in.

        Parameters
        ----------
        folder
            Made when it isn't there. The configuration comes last, so that what was cut short is no model.
        """
        folder = Path(folder)
        make_folder(folder)
        last = "config.json"
        (folder / last).unlink(missing_ok=True)
        with temporary_folder(folder / last) as temporary:
            self.model.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            for path in sorted(temporary.iterdir(), key=lambda path: path.name == last):
                path.replace(folder / path.name)

    def _frozen_settings(self):
        return {"tokenizer": self._tokenizer_fingerprint, "max_tokens": self.max_tokens}

    def _embed(self, inputs, lens):
        # Batches are padded with zeros, which need not be this tokenizer's padding.
        inputs = inputs.masked_fill(~valid_mask(lens, inputs.shape[1]), self.tokenizer.pad_token_id)
        hidden = self.model.embeddings(input_ids=inputs)
        return hidden, lens

    def _run_layers(self, hidden, lens, layers):
        if self.model.config.model_type != "deberta-v2":
            return run_masked(layers, self.model.config, hidden, lens)
        # DeBERTa's attention has positions of its own, which all layers share.
        encoder = self.model.encoder
        mask = encoder.get_attention_mask(valid_mask(lens, hidden.shape[1]).long())
        positions = {"relative_pos": encoder.get_rel_pos(hidden), "rel_embeddings": encoder.get_rel_embedding()}
        for layer in layers:
            hidden, _ = layer(hidden, mask, **positions)
        return hidden


def embed_tokens(tokens: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """Embed sentences as sentence-transformers do: the mean of their token vectors, of unit length.

    Parameters
    ----------
    tokens
        (B, T, D), from a `TextEncoder`.
    lens
        (B,), relative lengths.

    Returns
    -------
    torch.Tensor
        (B, D).

    Example
    -------
    >>> embed_tokens(torch.tensor([[[3.0, 1.0], [0.0, 3.0], [9.0, 9.0]]]), torch.tensor([2 / 3]))
    tensor([[0.6000, 0.8000]])
    """
    total = (tokens * valid_mask(lens, tokens.shape[1]).unsqueeze(-1)).sum(dim=1)
    return torch.nn.functional.normalize(total, dim=-1)


def _fingerprint_tokenizer(tokenizer):
    """Fingerprint of all that decides a transcript's ids, wherever a tokenizer has just been loaded from."""
    if tokenizer.is_fast:
        pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
        del pipeline["truncation"], pipeline["padding"]  # each call asks for its own
    else:  # written in Python: the files that it would need to be loaded again (some are copies of its source)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            pipeline = {path.name: path.read_bytes().decode("latin-1") for path in Path(folder).iterdir()}
        config = json.loads(pipeline.pop("tokenizer_config.json"))
        # Whether it came from a folder or from the Hub.
        pipeline["config"] = {k: v for k, v in config.items() if k not in ("is_local", "local_files_only")}
    attributes = ("pad_token_id", "truncation_side", "split_special_tokens")
    return fingerprint(pipeline=pipeline, **{name: getattr(tokenizer, name) for name in attributes})
