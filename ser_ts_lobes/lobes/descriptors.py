"""Acoustic descriptors of the baselines, computed by fixed formulas where other systems have a pretrained encoder."""

import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from scipy.fft import dct
from transformers import PretrainedConfig

from ser_ts_lobes.errors import InputError, needs_extra
from ser_ts_lobes.lobes.encoder import Encoder, n_valid, valid_mask
from ser_ts_lobes.lobes.speech import SAMPLE_RATE


class DescriptorEncoder(Encoder):
    """Descriptors of each utterance by itself, with the interface of a pretrained encoder.

    A subclass gives `_describe`, and in `settings` whatever else determines its result.

    Parameters
    ----------
    output_size
        Size of a frame.
    trainable_layers
        1 if the subclass has a layer on top of the descriptors (0: none).
    **settings
        What else determines the descriptors; for the fingerprint.
    """

    always_on_cpu = True

    def __init__(self, output_size: int, trainable_layers: int = 0, **settings: str | float) -> None:
        self._config = PretrainedConfig(hidden_size=output_size, **settings)
        super().__init__(type(self).__name__, trainable_layers)

    def _load(self, source, config):
        model = torch.nn.Module()
        model.config = self._config
        return model

    @property
    def layers(self) -> torch.nn.ModuleList:
        """No layers, unless a subclass has one."""
        return torch.nn.ModuleList()

    def _describe(self, wav):
        """Describe one utterance: 16 kHz samples (N,) -> (T, output_size) float32, on the CPU."""
        raise NotImplementedError

    def _embed(self, inputs, lens):
        wavs = [wav[:n] for wav, n in zip(inputs.cpu(), n_valid(lens, inputs.shape[1]).tolist(), strict=True)]
        utterances = [self._describe(wav) for wav in wavs]
        frames = torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True)
        n_frames = torch.tensor([len(utterance) for utterance in utterances])
        return frames.to(inputs.device), (n_frames / frames.shape[1]).to(inputs.device)

    def _run_layers(self, hidden, lens, layers):
        for layer in layers:
            hidden = layer(hidden, lens)
        return hidden


class FrameScale(torch.nn.Module):
    """Brings each descriptor to zero mean and unit variance over the frames of the training set, and bounds it.

    Mean and standard deviation live in the checkpoint.

    Parameters
    ----------
    size
        Size of a frame.
    limit
        Standard deviations at which a descriptor is clipped.

    Example
    -------
    >>> scale = FrameScale(1, limit=3.0)
    >>> scale.fit([torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [3.0]])])
    >>> scale(torch.tensor([[[1.0], [2.0], [90.0], [2.5]]]), torch.tensor([0.75])).flatten().tolist()
    [-1.0, 0.0, 3.0, 0.0]
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, size: int, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, utterances: Iterable[torch.Tensor]) -> None:
        """Take mean and (population) standard deviation; a descriptor that never varies keeps its own scale.

        Parameters
        ----------
        utterances
            The training set; each, (T, size), a part of it.
        """
        n = 0
        mean: torch.Tensor | float = 0.0
        squares: torch.Tensor | float = 0.0
        for frames in utterances:
            # Merging centred moments (Chan, Golub and LeVeque, 1983): descriptors may be far from zero.
            frames = frames.double()
            own_mean = frames.mean(0)
            total = n + len(frames)
            squares = squares + (frames - own_mean).square().sum(0) + (own_mean - mean) ** 2 * (n * len(frames) / total)
            mean = mean + (own_mean - mean) * (len(frames) / total)
            n = total
        std = torch.as_tensor(squares / n).sqrt()
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, frames: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Standardise and clip, (B, T, size) -> (B, T, size); zero beyond the valid frames."""
        frames = ((frames - self.mean) / self.std).clamp(-self.limit, self.limit)
        return frames * valid_mask(lens, frames.shape[1]).unsqueeze(-1)


class LowLevelDescriptors(DescriptorEncoder):
    """The 65 low-level descriptors of Interspeech 2013's ComParE challenge and their deltas, by openSMILE.

    Frames of 32 ms, one each 16 ms, as Lin and Busso's own openSMILE configuration has it (github.com/
    winston-lin-wei-cheng/opensmile-LLDs-extraction); openSMILE's default is 60 and 20 ms each 10 ms. They are
    standardised with the statistics of the training set (`fit`) and clipped at 3 standard deviations (Lin and Busso
    2020). What `frozen_forward` gives, and is kept on disk, is not standardised: it needs float32.

    Raises
    ------
    InputError
        If the package `opensmile` is missing, or is not one that is known here.

    Example
    -------
    >>> encoder = LowLevelDescriptors()
    >>> frames, lens = encoder(0.1 * torch.randn(2, 16000), torch.ones(2))
    >>> frames.shape  # chunks of one second
    torch.Size([2, 62, 130])
    """

    FRAME_SIZE_S, FRAME_STEP_S = 0.032, 0.016

    def __init__(self) -> None:
        try:
            import opensmile
        except ImportError as error:
            raise needs_extra("The descriptor encoder", "opensmile", "attn") from error
        super().__init__(
            130,
            trainable_layers=1,
            opensmile=opensmile.__version__,
            frame_size_s=self.FRAME_SIZE_S,
            frame_step_s=self.FRAME_STEP_S,
        )
        self._folder = tempfile.TemporaryDirectory()  # openSMILE reads it again for each utterance
        config = Path(self._folder.name, "config")
        shutil.copytree(Path(opensmile.__file__).parent / "core" / "config", config)
        self._set_frames(config / "is09-13" / "IS13_ComParE_core.lld.conf.inc")
        self._smile = opensmile.Smile(str(config / "is09-13" / "IS13_ComParE.conf"), "lld;lld_de")

    def _load(self, source, config):
        # Not in the model, whose buffers count as frozen.
        self.scale = FrameScale(self._config.hidden_size, limit=3.0)
        return super()._load(source, config)

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The standardisation, as the one layer that learns from the training set."""
        return torch.nn.ModuleList([self.scale])

    def fit(self, training_set: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take the statistics of the training set; see `Encoder.fit`."""
        self.scale.fit(hidden[valid_mask(lens, hidden.shape[1])] for hidden, lens in training_set)

    def _describe(self, wav):
        # openSMILE hears 16 bits, of which full scale would be one step too loud; and one whole frame at least.
        wav = wav.clamp(-1, 1 - 2**-15)
        shortest = round(self.FRAME_SIZE_S * SAMPLE_RATE)
        wav = torch.nn.functional.pad(wav, (0, max(0, shortest - len(wav))))
        _, _, frames = self._smile.process(wav.unsqueeze(0).numpy(), SAMPLE_RATE)
        return torch.from_numpy(frames).float()

    def _set_frames(self, path):
        """Set size and step of the frames in a copy of openSMILE's configuration."""
        text = path.read_text(encoding="latin-1")
        text, n_sizes = re.subn(r"(?m)^frameSize *=.*$", f"frameSize = {self.FRAME_SIZE_S}", text)
        text, n_steps = re.subn(r"(?m)^frameStep *=.*$", f"frameStep = {self.FRAME_STEP_S}", text)
        if (n_sizes, n_steps) != (2, 2):
            raise InputError(
                f"opensmile {self._config.opensmile} configures {path.name} in another way than is known here: "
                "install opensmile 2.6."
            )
        path.write_text(text, encoding="latin-1")


class ShortTermStatistics(DescriptorEncoder):
    """Mean and standard deviation over an utterance of pyAudioAnalysis' 34 short-term descriptors: one frame of 68.

    In pyAudioAnalysis' order: zero-crossing rate, energy, entropy of energy, spectral centroid, spread, entropy, flux
    and roll-off, 13 MFCCs, 12 chroma values and their standard deviation; frames of 25 ms each 10 ms (Atmaja and Akagi
    2020, section 3). They equal those of pyAudioAnalysis 0.3.14, peculiarities included (see `short_term`), but it
    need not be installed. Atmaja and Akagi's code leaves values that are exactly 0 out of the statistics, because it
    pads with zeros; here all values count.

    Example
    -------
    >>> statistics, lens = ShortTermStatistics()(0.1 * torch.randn(2, 16000), torch.ones(2))
    >>> statistics.shape
    torch.Size([2, 1, 68])
    """

    FRAME_SIZE, FRAME_STEP = 400, 160  # samples

    def __init__(self) -> None:
        super().__init__(68, frame_size=self.FRAME_SIZE, frame_step=self.FRAME_STEP)

    def _describe(self, wav):
        descriptors = short_term(wav, self.FRAME_SIZE, self.FRAME_STEP)
        return torch.cat([descriptors.mean(0), descriptors.std(0, correction=0)]).float().unsqueeze(0)


_EPSILON = torch.finfo(torch.float64).eps  # as in pyAudioAnalysis
_N_BLOCKS = 10  # of the entropies
_ROLL_OFF = 0.9
_N_MFCCS = 13
_LOWEST_NOTE_HZ = 27.5


def short_term(wav: torch.Tensor, frame_size: int, frame_step: int) -> torch.Tensor:
    """Compute pyAudioAnalysis' 34 short-term descriptors.

    The signal is centred and scaled to a peak of 1 first, so loudness does not count. Two peculiarities of
    pyAudioAnalysis are kept: the mel filters take the spectrum for twice as wide as it is, and of the bins that fall
    on one semitone only the highest counts in the chroma values.

    Parameters
    ----------
    wav
        (N,), 16 kHz; filled with zeros where shorter than a frame.
    frame_size, frame_step
        In samples.

    Returns
    -------
    torch.Tensor
        (T, 34) float64: one row a whole frame.
    """
    wav = wav.double() - wav.double().mean()
    wav = wav / (wav.abs().max() + 1e-10)
    wav = torch.nn.functional.pad(wav, (0, max(0, frame_size - len(wav))))
    frames = wav.unfold(0, frame_size, frame_step)
    n_bins = frame_size // 2
    spectrum = torch.fft.fft(frames)[:, :n_bins].abs() / n_bins
    power = spectrum.square()
    chroma = power @ _chroma_matrix(n_bins) / _or_epsilon(power.sum(1, keepdim=True))
    return torch.column_stack(
        [
            frames.sign().diff().abs().sum(1) / 2 / (frame_size - 1),
            frames.square().mean(1),
            _entropy(frames.square()),
            *_centroid_and_spread(spectrum),
            _entropy(power),
            _flux(spectrum),
            _roll_off(power),
            _mfccs(spectrum),
            chroma,
            chroma.std(1, correction=0),
        ]
    )


def _or_epsilon(values):
    return torch.where(values == 0, _EPSILON, values)


def _entropy(energies):
    """Entropy, in bits, of how the energy of each row is spread over its blocks: (T, K) -> (T,)."""
    size = energies.shape[1] // _N_BLOCKS
    blocks = energies[:, : _N_BLOCKS * size].unflatten(1, (_N_BLOCKS, size)).sum(2)
    shares = blocks / (energies.sum(1, keepdim=True) + _EPSILON)
    return -(shares * (shares + _EPSILON).log2()).sum(1)


def _centroid_and_spread(spectrum):
    """Mean and standard deviation of the frequency, as a share of the Nyquist frequency: (T, K) -> (T,) each."""
    frequency = torch.arange(1, spectrum.shape[1] + 1, dtype=torch.float64) / spectrum.shape[1]
    weights = spectrum / _or_epsilon(spectrum.amax(1, keepdim=True))
    total = weights.sum(1) + _EPSILON
    centroid = weights @ frequency / total
    spread = (weights * (frequency - centroid.unsqueeze(1)).square()).sum(1) / total
    return centroid, spread.sqrt()


def _flux(spectrum):
    """Squared distance of each normalised spectrum from the one before; 0 for the first."""
    total = (spectrum + _EPSILON).sum(1, keepdim=True)
    normalised = spectrum / total
    return torch.nn.functional.pad(normalised.diff(dim=0).square().sum(1), (1, 0))


def _roll_off(power):
    """Share of the spectrum below which 90 % of the power lies; 0 for silence."""
    above = power.cumsum(1) + _EPSILON > _ROLL_OFF * power.sum(1, keepdim=True)
    return above.int().argmax(1) / power.shape[1]


def _mfccs(spectrum):
    log_mel = (spectrum @ _mel_filters(spectrum.shape[1]).T + _EPSILON).log10()
    return torch.from_numpy(dct(log_mel.numpy(), norm="ortho"))[:, :_N_MFCCS]


def _mel_filters(n_bins):
    """Slaney's 40 triangular filters, 13 of them linear in frequency and 27 logarithmic: (40, n_bins)."""
    linear = 133.33 + 200 / 3 * torch.arange(13, dtype=torch.float64)
    edges = torch.cat([linear, linear[-1] * 1.0711703 ** torch.arange(1, 30, dtype=torch.float64)])
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequency = torch.arange(n_bins, dtype=torch.float64) / n_bins * SAMPLE_RATE
    rising = (frequency - low) / (centre - low)
    falling = (high - frequency) / (high - centre)
    return 2 / (high - low) * torch.minimum(rising, falling).clamp(min=0)


def _chroma_matrix(n_bins):
    """From the power spectrum to the 12 pitch classes, A first: (n_bins, 12)."""
    frequency = (torch.arange(n_bins) + 1) * SAMPLE_RATE / (2 * n_bins)
    semitone = (12 * (frequency.double() / _LOWEST_NOTE_HZ).log2()).round().long()
    n_sharing = semitone.bincount(minlength=n_bins)[semitone]
    matrix = torch.zeros(n_bins, 12, dtype=torch.float64)
    for bin, note in enumerate(semitone.tolist()):
        if bin == n_bins - 1 or semitone[bin + 1] > note:
            matrix[bin, note % 12] = 1 / n_sharing[semitone[note]]
    return matrix
