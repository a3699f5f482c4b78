"""A listener: a few transformer layers on top of a speech encoder, which have learnt what is said.

It is taught on transcribed speech that nobody rated (`ser_ts_lobes.training.lexical`) and written to a folder of its
own, which any system takes as its ``speech_source`` afterwards.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors.torch
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import make_folder, replacing
from ser_ts_lobes.lobes.encoder import Encoder, n_valid, valid_mask

if TYPE_CHECKING:
    from ser_ts_lobes.lobes.reader import Reader

LISTENER_CONFIG_FILE, LISTENER_WEIGHTS_FILE = "listener.json", "listener.safetensors"
#: The folders that its training writes in a run's: the listener alone, and with what reads the words that it hears.
LISTENER_FOLDER, READER_FOLDER = "listener", "reader"
#: What a listener's configuration names as its architecture.
MODEL_TYPE = "listener"


class ListenerOutput(NamedTuple):
    """What a `Listener` makes of a batch.

    Attributes
    ----------
    inner
        (B, T, hidden_size), what the last layer is given, normalised: close to the sound of words.
    frames
        (B, T, hidden_size), what it gives: closer to their meaning.
    lens
        (B,), relative lengths of both.
    """

    inner: torch.Tensor
    frames: torch.Tensor
    lens: torch.Tensor


class Listener(torch.nn.Module):
    """Transformer layers over stacked frames of a speech encoder.

    A few neighbouring frames become one: words are long enough for it, and the layers cost as many times less. A
    convolution tells them what is near, as in wav2vec 2.0.

    Parameters
    ----------
    input_size
        Size of the speech encoder's frames.
    hidden_size
        Size of a frame that comes out.
    num_layers, num_heads
        Transformer layers, and attention heads of each.
    stack
        How many frames become one (4 of 20 ms: 12.5 frames a second).
    kernel_size
        Width of the convolution in such frames; odd.
    dropout
        Dropout within the layers, in 0-1.

    Example
    -------
    >>> listener = Listener(input_size=8, hidden_size=16, num_layers=2, num_heads=2)
    >>> output = listener(torch.randn(2, 49, 8), torch.tensor([1.0, 0.5]))
    >>> output.frames.shape
    torch.Size([2, 13, 16])
    >>> n_valid(output.lens, 13)  # of 49 frames, and of 24
    tensor([13,  6])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 384,
        num_layers: int = 3,
        num_heads: int = 6,
        stack: int = 4,
        kernel_size: int = 9,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        #: For JSON: what makes another of the same shape.
        self.sizes = {
            "input_size": input_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "stack": stack,
            "kernel_size": kernel_size,
            "dropout": dropout,
        }
        self.stack = stack
        self.output_size = hidden_size
        self.entrance = torch.nn.Linear(stack * input_size, hidden_size)
        self.near = torch.nn.Conv1d(hidden_size, hidden_size, kernel_size, padding="same", groups=hidden_size)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                hidden_size, num_heads, 4 * hidden_size, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.inner_norm = torch.nn.LayerNorm(hidden_size)
        self.norm = torch.nn.LayerNorm(hidden_size)

    def enter(self, frames: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bring frames to the first of the layers.

        Parameters
        ----------
        frames
            (B, T, input_size); what is beyond the valid ones does not count.
        lens
            (B,), relative lengths.

        Returns
        -------
        hidden : torch.Tensor
            (B, ceil(T / stack), hidden_size), zero beyond the valid positions.
        hidden_lens : torch.Tensor
            (B,), relative lengths of `hidden`.
        """
        frames = frames * valid_mask(lens, frames.shape[1]).unsqueeze(-1)
        n_frames = n_valid(lens, frames.shape[1])
        frames = torch.nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % self.stack))
        hidden = self.entrance(frames.unflatten(1, (-1, self.stack)).flatten(2))
        lens = ((n_frames + self.stack - 1) // self.stack) / hidden.shape[1]
        mask = valid_mask(lens, hidden.shape[1]).unsqueeze(-1)
        near = self.near((hidden * mask).transpose(1, 2)).transpose(1, 2)
        return (hidden + torch.nn.functional.gelu(near)) * mask, lens

    def thin_out(self, frames: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Bring frames, (B, T, input_size) with relative lengths (B,), to the listener's rate: means of valid ones."""
        valid = valid_mask(lens, frames.shape[1]).unsqueeze(-1).to(frames.dtype)
        sums, counts = (
            torch.nn.functional.pad(values, (0, 0, 0, -values.shape[1] % self.stack))
            .unflatten(1, (-1, self.stack))
            .sum(dim=2)
            for values in (frames * valid, valid)
        )
        return sums / counts.clamp(min=1)

    def run(self, hidden: torch.Tensor, lens: torch.Tensor, layers: torch.nn.ModuleList) -> torch.Tensor:
        """Run some of the layers: (B, T, hidden_size) and relative lengths (B,) -> (B, T, hidden_size)."""
        padding = ~valid_mask(lens, hidden.shape[1])
        for layer in layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        return hidden

    def forward(self, frames: torch.Tensor, lens: torch.Tensor) -> ListenerOutput:
        """Listen.

        Parameters
        ----------
        frames
            (B, T, input_size), from the speech encoder.
        lens
            (B,), relative lengths.

        Returns
        -------
        ListenerOutput
        """
        hidden, lens = self.enter(frames, lens)
        inner = self.run(hidden, lens, self.layers[:-1])
        hidden = self.run(inner, lens, self.layers[-1:])
        return ListenerOutput(self.inner_norm(inner), self.norm(hidden), lens)


def is_listener(source: str | Path | dict[str, Any]) -> bool:
    """Tell whether a ``speech_source`` is a listener: its folder (one to come is refused), or its configuration."""
    if isinstance(source, dict):
        return source["model"].get("model_type") == MODEL_TYPE
    folder = Path(source)
    if folder.name in (LISTENER_FOLDER, READER_FOLDER) and not folder.exists():
        raise InputError(
            f"{folder} does not exist: train the listener first, or name another encoder as speech_source."
        )
    return (folder / LISTENER_CONFIG_FILE).is_file()


def describe_listener(speech: Encoder, listener: Listener, reader: "Reader | None" = None) -> dict[str, Any]:
    """Say what a listener, the encoder below it and what reads its words are made from: its `Encoder.configuration`.

    ``learnt_layers`` are the upper ones of the encoder below that have learnt words, too: they forget the voice.
    """
    description = {
        "model": {"model_type": MODEL_TYPE, **listener.sizes},
        "speech": speech.configuration(),
        "learnt_layers": len(speech.layers) - speech.n_frozen,
    }
    return description if reader is None else {**description, "reader": reader.sizes}


def save_listener(folder: str | Path, speech: Encoder, listener: Listener, reader: "Reader | None" = None) -> None:
    """Write a listener and the speech encoder below it, so that they need nothing else.

    Parameters
    ----------
    folder
        Made when it isn't there. The configuration comes last, so that what was cut short is no listener.
    speech
        The encoder whose frames the listener has learnt from, with whatever layers of it have learnt, too.
    listener
        What has been trained.
    reader
        What reads the words that it hears; None for a listener that doesn't read.
    """
    folder = Path(folder)
    make_folder(folder)
    (folder / LISTENER_CONFIG_FILE).unlink(missing_ok=True)
    parts = {"speech": speech, "listener": listener, **({} if reader is None else {"reader": reader})}
    weights = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    with replacing(folder / LISTENER_WEIGHTS_FILE) as temporary:
        temporary.write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    with replacing(folder / LISTENER_CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(describe_listener(speech, listener, reader), indent=2) + "\n", encoding="utf-8")


def read_listener_config(folder: str | Path) -> dict[str, Any]:
    """Read what a listener is made from; it is refused in one sentence where it is none."""
    path = Path(folder) / LISTENER_CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): train the listener again, which writes it.") from error
    wrong = not isinstance(config, dict) or not all(isinstance(config.get(part), dict) for part in ("model", "speech"))
    if wrong or not is_listener(config):
        raise InputError(f"{path} describes no listener: train the listener again, which writes it.")
    found: dict[str, Any] = config
    return found


def read_listener_weights(model: torch.nn.Module, folder: str | Path) -> None:
    """Read the weights of a model's ``speech``, ``listener`` and ``reader``, or say in one sentence what is wrong."""
    path = Path(folder) / LISTENER_WEIGHTS_FILE
    try:
        weights = safetensors.torch.load_file(path)
        model.load_state_dict(weights)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path} doesn't hold the weights that {LISTENER_CONFIG_FILE} beside it describes ({reason}): train the "
            "listener again, which writes both."
        ) from error
