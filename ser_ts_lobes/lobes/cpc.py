"""Contrastive predictive coding (CPC): the network, its checkpoints, and the encoder that stands on one.

Checkpoints have the form of CPC_audio's, the code of Rivière, Joulin, Mazaré and Dupoux ("Unsupervised pretraining
transfers well across languages", ICASSP 2020): so the public ``60k_epoch4`` and what ``recipes/LibriSpeech/CPC``
trains are the same kind of file.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from speechbrain.dataio.dataio import length_to_mask
from transformers import PretrainedConfig

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.lobes.encoder import Encoder, n_valid

#: The convolutions (Oord et al. 2018, section 3.1; paddings: CPC_audio).
KERNEL_SIZES, STRIDES, PADDINGS = (10, 8, 4, 4, 4), (5, 4, 2, 2, 2), (3, 2, 1, 1, 1)
HOP_LENGTH = 160  # samples a frame: the product of the strides

# CPC_audio's defaults: what a key that its checkpoint lacks stands for.
_DEFAULTS: dict[str, Any] = {"hiddenEncoder": 256, "hiddenGar": 256, "arMode": "LSTM", "nLevelsGRU": 1}
_CONTEXTS = ("LSTM", "GRU")
# What else shapes CPC_audio's network, and the values that are supported here.
_SUPPORTED = {
    "arMode": _CONTEXTS,
    "encoder_type": ("cpc",),
    "normMode": ("layerNorm",),
    "cpc_mode": (None, "none"),
}


class ChannelNorm(torch.nn.Module):
    """Normalise each frame over its channels (Rivière et al. 2020), with the unbiased variance as CPC_audio does.

    Parameters
    ----------
    channels
        C in (B, C, T).

    Example
    -------
    >>> normalised = ChannelNorm(8)(3 + 5 * torch.randn(2, 8, 4))
    >>> normalised.mean(1).abs().max() < 1e-5, (normalised.std(1) - 1).abs().max() < 1e-3
    (tensor(True), tensor(True))
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, channels, 1))
        self.bias = torch.nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise, (B, C, T) -> (B, C, T)."""
        variance, mean = torch.var_mean(hidden, dim=1, keepdim=True)
        return (hidden - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class CPC(torch.nn.Module):
    """The network of contrastive predictive coding: strided convolutions, then a recurrent context.

    The default is Rivière et al.'s ("Modified CPC", 1,843,456 parameters). With 512 channels and a GRU it is Oord,
    Li and Vinyals' ("Representation learning with contrastive predictive coding", 2018), but for the channel norm.

    Parameters
    ----------
    channels
        Channels of the convolutions.
    context_size
        Size of the recurrent layers.
    context
        ``LSTM`` or ``GRU``.
    context_layers
        Number of the recurrent layers.

    Raises
    ------
    InputError
        If there is no such context.

    Example
    -------
    >>> cpc = CPC()
    >>> sum(parameter.numel() for parameter in cpc.parameters())
    1843456
    >>> context, frames = cpc(torch.randn(2, 20480))
    >>> context.shape, frames.shape
    (torch.Size([2, 128, 256]), torch.Size([2, 128, 256]))
    """

    def __init__(
        self, channels: int = 256, context_size: int = 256, context: str = "LSTM", context_layers: int = 1
    ) -> None:
        super().__init__()
        if context not in _CONTEXTS:
            raise InputError(f"context is {context!r}; choose one of {', '.join(_CONTEXTS)}.")
        self.config = PretrainedConfig(
            channels=channels, hidden_size=context_size, context=context, context_layers=context_layers
        )
        shapes = zip((1, *[channels] * 4), KERNEL_SIZES, STRIDES, PADDINGS, strict=True)
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv1d(inputs, channels, kernel_size, stride, padding)
            for inputs, kernel_size, stride, padding in shapes
        )
        self.norms = torch.nn.ModuleList(ChannelNorm(channels) for _ in KERNEL_SIZES)
        recurrent = getattr(torch.nn, context)
        self.context = recurrent(channels, context_size, context_layers, batch_first=True)

    def convolve(self, wavs: torch.Tensor, n_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the convolutions, as if each utterance were alone.

        Parameters
        ----------
        wavs
            (B, N), 16 kHz, zero beyond the valid samples.
        n_samples
            (B,), valid samples.

        Returns
        -------
        frames : torch.Tensor
            (B, T, channels), one each 10 ms, zero beyond the valid frames.
        n_frames : torch.Tensor
            (B,), valid frames; at least 1, for what is shorter than a frame is filled with silence.
        """
        hidden = torch.nn.functional.pad(wavs, (0, max(0, HOP_LENGTH - wavs.shape[1]))).unsqueeze(1)
        n_frames = n_samples.clamp(min=HOP_LENGTH)
        shapes = zip(KERNEL_SIZES, STRIDES, PADDINGS, strict=True)
        for convolution, norm, (kernel_size, stride, padding) in zip(
            self.convolutions, self.norms, shapes, strict=True
        ):
            n_frames = (n_frames + 2 * padding - kernel_size) // stride + 1
            hidden = torch.relu(norm(convolution(hidden)))
            # The next layer pads with zeros; an utterance's padding begins where it ends.
            hidden = hidden * length_to_mask(n_frames, hidden.shape[2]).unsqueeze(1)
        return hidden.transpose(1, 2), n_frames

    def forward(self, wavs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames and their context.

        Parameters
        ----------
        wavs
            (B, N), 16 kHz, all of the same length.

        Returns
        -------
        context : torch.Tensor
            (B, T, context_size): what has been heard up to each frame.
        frames : torch.Tensor
            (B, T, channels).
        """
        frames, _ = self.convolve(wavs, torch.full((len(wavs),), wavs.shape[1], device=wavs.device))
        return self.context(frames)[0], frames


class CPCEncoder(Encoder):
    """Context of a pretrained CPC: one frame each 10 ms.

    Parameters
    ----------
    source
        A checkpoint in CPC_audio's form: a file, or the URL of one.
    sha256
        SHA-256 of the checkpoint, or its first 8 or more digits; None does not check, which a URL does not allow.
    trainable_layers
        1 lets the recurrent context learn (0: nothing).

    Example
    -------
    >>> path = getfixture("tmp_path") / "cpc.pt"
    >>> save_cpc(CPC(channels=8, context_size=16), path)
    >>> frames, lens = CPCEncoder(path)(torch.randn(2, 16000), torch.ones(2))
    >>> frames.shape
    torch.Size([2, 100, 16])
    """

    def __init__(self, source: str | Path, sha256: str | None = None, trainable_layers: int = 0) -> None:
        self._sha256 = sha256
        super().__init__(source, trainable_layers)

    def _load(self, source, config):
        return load_cpc(source, self._sha256)

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The recurrent context, as the one layer that may learn."""
        return torch.nn.ModuleList([self.model.context])

    def _embed(self, inputs, lens):
        n_samples = n_valid(lens, inputs.shape[1])
        mask = length_to_mask(n_samples, inputs.shape[1])
        frames, n_frames = self.model.convolve(inputs * mask, n_samples)
        return frames, n_frames / frames.shape[1]

    def _run_layers(self, hidden, lens, layers):
        # A recurrent layer does not look ahead, so padding behind the last valid frame is harmless.
        for layer in layers:
            hidden, _ = layer(hidden)
        return hidden


def load_cpc(source: str | Path, sha256: str | None = None) -> CPC:
    """Load a CPC checkpoint; nothing in it is executed.

    Parameters
    ----------
    source, sha256
        As in `CPCEncoder`. A URL is downloaded once, to the folder of `torch.hub`.

    Returns
    -------
    CPC
        In training mode.

    Raises
    ------
    InputError
        If the file is missing, can't be downloaded, is not the expected one, or holds something else.
    """
    path = _local_copy(str(source), sha256)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        config, weights = dict(checkpoint["config"]), dict(checkpoint["weights"])
    except Exception as error:  # of any type: torch.load's depends on the byte at which it gives up
        raise InputError(
            f"{path} is not a CPC checkpoint: it must hold `config` and `weights`, as CPC_audio's 60k_epoch4 and "
            "the cpc.pt of a pretraining here do."
        ) from error
    for key, supported in _SUPPORTED.items():
        if config.get(key, supported[0]) not in supported:
            raise InputError(
                f"{path} holds a CPC with {key} {config[key]!r}, but only {' or '.join(map(str, supported))} is "
                "supported: choose another checkpoint."
            )
    config = _DEFAULTS | config
    cpc = CPC(config["hiddenEncoder"], config["hiddenGar"], config["arMode"], config["nLevelsGRU"])
    state = cpc.state_dict()
    for key, tensor in state.items():
        public = _public_key(key)
        if getattr(weights.get(public), "shape", None) != tensor.shape:
            raise InputError(
                f"{path} is not a whole CPC checkpoint: its weights should hold {public} of shape "
                f"{tuple(tensor.shape)}, as its config says."
            )
    # Only what the network has: like the original, and whatever else was saved beside it is not needed.
    cpc.load_state_dict({key: weights[_public_key(key)] for key in state})
    return cpc


def save_cpc(cpc: CPC, path: str | Path) -> None:
    """Write a CPC checkpoint in CPC_audio's form, whole or not at all.

    Parameters
    ----------
    cpc
        The network.
    path
        The file, in an existing folder.
    """
    config = {
        "hiddenEncoder": cpc.config.channels,
        "hiddenGar": cpc.config.hidden_size,
        "arMode": cpc.config.context,
        "nLevelsGRU": cpc.config.context_layers,
        "encoder_type": "cpc",
        "normMode": "layerNorm",
        "cpc_mode": None,
        "samplingType": "uniform",  # CPC_audio: no state is carried from one utterance to the next
    }
    weights = {_public_key(key): tensor.detach().cpu() for key, tensor in cpc.state_dict().items()}
    with replacing(path) as temporary:
        torch.save({"config": config, "weights": weights}, temporary)


def _public_key(key):
    """Name of a weight in CPC_audio: ``norms.3.bias`` -> ``gEncoder.batchNorm3.bias``."""
    key = re.sub(r"^convolutions\.", "gEncoder.conv", key)
    key = re.sub(r"^norms\.", "gEncoder.batchNorm", key)
    return re.sub(r"^context\.", "gAR.baseNet.", key)


def _local_copy(source, sha256):
    """Path of a checkpoint whose hash is right; a URL is downloaded first."""
    if sha256 is not None and not re.fullmatch("[0-9a-f]{8,64}", str(sha256)):
        raise InputError(f"{sha256!r} is no SHA-256: give all or the first 8 or more of its 64 hexadecimal digits.")
    path = Path(source)
    if re.match("(https?|file)://", source):
        if sha256 is None:
            raise InputError(f"{source} would be downloaded unchecked: give its SHA-256 too, or download it yourself.")
        path = Path(torch.hub.get_dir()) / "checkpoints" / source.rsplit("/", 1)[1]
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(source, path, sha256)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: name a CPC checkpoint, such as the cpc.pt that the recipe for pretraining writes."
        )
    if sha256 is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if not found.startswith(str(sha256)):
            raise InputError(
                f"{path} has the SHA-256 {found}, not {sha256}: it is damaged or another file; delete it to have it "
                "downloaded again, or give the SHA-256 of the file that you mean (--speech_sha256; null: any)."
            )
    return path


def _download(url, path, sha256):
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=str(sha256), progress=False)
    except OSError as error:
        raise InputError(
            f"Can't download {url} ({error}): download it elsewhere and name the file instead of the URL."
        ) from error
    except RuntimeError as error:  # its word for a wrong hash
        raise InputError(f"What {url} gave does not have the SHA-256 {sha256}; nothing was kept.") from error
