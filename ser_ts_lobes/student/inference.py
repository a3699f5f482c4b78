"""Using a student: emotion from waveforms, files and long recordings."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import huggingface_hub
import numpy as np
import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import FetchConfig, LocalStrategy, fetch
from tqdm import tqdm

from ser_ts_lobes.data.audio import read_header, stream_audio
from ser_ts_lobes.data.voice_activity import trim_silence
from ser_ts_lobes.devices import check_device
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.emotion import EmotionOutput
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.speech import SAMPLE_RATE
from ser_ts_lobes.student.config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_weakest,
    is_hub_name,
    read_config,
    say_what_it_reads,
)
from ser_ts_lobes.student.network import load_network

if TYPE_CHECKING:
    from ser_ts_lobes.student.network import StudentNetwork

# Of a student of before, which does not tell what it was trained on.
_WINDOW_S = 4.0


class Emotion(NamedTuple):
    """How a voice sounds, on the scale of the corpus that the student has learnt from."""

    activation: float
    valence: float
    dominance: float


class Prediction(NamedTuple):
    """What became of one file of many: an emotion, or the sentence that says why there is none.

    ``duration_s`` is of what was heard of it; ``embedding``, (E,) float32, what the emotion was read from.
    """

    path: str
    emotion: Emotion | None
    error: str | None
    duration_s: float | None = None
    embedding: np.ndarray | None = None


class Timeline(NamedTuple):
    """Emotion over time: window i lasts from ``start_s[i]`` to ``end_s[i]`` and sounds like ``values[i]``.

    ``start_s`` and ``end_s``: (N,) float64, seconds; ``values``: (N, 3) float64, activation, valence, dominance, NaN
    where nobody speaks.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    values: np.ndarray


def find_file(source: str | Path, name: str, revision: str | None) -> str | Path:
    """Find a file of a model in a local folder or, for a name like ``user/name`` that is none, on the Hub.

    Parameters
    ----------
    source
        The folder or the name.
    name
        Of the file.
    revision
        Branch, tag or commit on the Hub.

    Returns
    -------
    str or Path
        Where it is; of a folder, where it would be.

    Raises
    ------
    InputError
        If the source is neither, or the Hub does not give the file.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder / name
    # "results/my-studnet" is a slip of the pen, not somebody's model.
    if not is_hub_name(str(source)) or folder.parent.is_dir():
        raise InputError(f"{source} is neither a folder nor a name on the Hugging Face Hub (user/name).")
    try:
        path: str = huggingface_hub.hf_hub_download(str(source), name, revision=revision)
    except (HfHubHTTPError, EntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"Can't get {source!r} from the Hugging Face Hub ({reason}): check the name, the network "
            "and, for a private one, `hf auth login`."
        ) from error
    return path


class StudentFiles:
    """The two files of a student, found in a folder or on the Hub; for SpeechBrain, a pretrainer."""

    def __init__(self) -> None:
        self.collect_in: str | Path | None = None

    def set_collect_in(self, path: str | Path | None) -> None:
        """Choose the folder in which SpeechBrain gathers what it fetches; None for none."""
        self.collect_in = path

    def collect_files(
        self,
        default_source: str,
        local_strategy: LocalStrategy = LocalStrategy.SYMLINK,
        fetch_config: FetchConfig = FetchConfig(),  # noqa: B008
    ) -> None:
        """Fetch the files as `speechbrain.utils.fetching.fetch` does."""
        self.config_path, self.weights_path = (
            fetch(name, default_source, self.collect_in, None, local_strategy, fetch_config)
            for name in (CONFIG_FILE, WEIGHTS_FILE)
        )

    def load_collected(self) -> None:
        """Do nothing: loading is left to the code that will use the network."""

    def find(self, source: str | Path, revision: str | None) -> None:
        """Find the files in a local folder or, for a name like ``user/name`` that is none, on the Hub."""
        self.config_path, self.weights_path = (
            find_file(source, name, revision) for name in (CONFIG_FILE, WEIGHTS_FILE)
        )

    def read(self) -> "tuple[dict[str, Any], StudentNetwork]":
        """Read what was found: the configuration, and the network with its weights."""
        config = read_config(self.config_path)
        return config, load_network(config, self.weights_path)


class EmotionRegressor(Pretrained):
    """An audio-only student: tells activation, valence and dominance from a voice.

    Made by `from_pretrained`, which trusts nobody; by `from_hparams`; or, without this package, by SpeechBrain's
    ``foreign_class(source, pymodule_file="custom_interface.py", classname="EmotionRegressor")``. The latter two run
    what ``hyperparams.yaml`` and ``custom_interface.py`` say: use them for sources that you trust.

    Attributes
    ----------
    config : dict
        ``config.json``: system, corpus, encoder, pooling, ``label_range``, ``label_mean``, ``label_std``,
        ``label_histogram`` (counts of training labels: ``counts[v][a]`` for ``valence_edges`` and
        ``activation_edges``), ``training_durations_s`` (``shortest``, ``median``, ``longest``: 1st, 50th and 99th
        percentile; not of students of before), ``test`` (the run's scores with their intervals).
    network : ser_ts_lobes.student.network.StudentNetwork
        Waveforms and relative lengths to embedding and prediction.
    max_clip_s : float
        Longest clip, in seconds, that is heard at once; 60, or what the encoder hears if that is less.
    window_s : float
        Length of a timeline's windows unless another is asked for: half of the training clips were shorter. 4 for a
        student that does not tell.
    """

    def __init__(
        self,
        modules: dict[str, torch.nn.Module] | None = None,
        hparams: dict[str, Any] | None = None,
        run_opts: dict[str, Any] | None = None,
        freeze_params: bool = True,
    ) -> None:
        assert hparams is not None  # only SpeechBrain's signature lets them be left out
        config, network = hparams["pretrainer"].read()
        super().__init__({**(modules or {}), "network": network}, hparams, run_opts, freeze_params)
        self.config = config
        self.max_clip_s = min(60.0, network.speech_encoder.max_duration_s)
        durations = config.get("training_durations_s")
        self.window_s = min(round(durations["median"], 1) if durations else _WINDOW_S, self.max_clip_s)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: str = "cpu", revision: str | None = None
    ) -> "EmotionRegressor":
        """Load a student safely: only ``config.json`` and ``model.safetensors`` are read, and no code is run.

        Parameters
        ----------
        source
            A folder that `ser-ts export` wrote, or a name on the Hugging Face Hub (``user/name``). The network is
            used for the latter alone.
        device
            Where the student runs, such as ``cpu`` or ``cuda:0``.
        revision
            Branch, tag or commit on the Hub.

        Returns
        -------
        EmotionRegressor

        Raises
        ------
        InputError
            If the source can't be had, or is not a student, or there is no such device.
        """
        check_device(device)
        files = StudentFiles()
        files.find(source, revision)
        return cls(hparams={"pretrainer": files}, run_opts={"device": device})

    @classmethod
    def from_hparams(cls, source: str, **kwargs: Any) -> "EmotionRegressor":
        """Load a student as SpeechBrain does, by its ``hyperparams.yaml``; for sources that you trust.

        Parameters
        ----------
        source
            Folder, or name on the Hugging Face Hub.
        **kwargs
            Those of `speechbrain.inference.interfaces.pretrained_from_hparams`: ``savedir``,
            ``run_opts={"device": "cuda:0"}``, ...

        Returns
        -------
        EmotionRegressor
        """
        # The file names the copy of this code that travels with it; here is the original.
        overrides = f"pretrainer: !new:{StudentFiles.__module__}.StudentFiles"
        student: EmotionRegressor = super().from_hparams(source, overrides=overrides, **kwargs)
        return student

    @property
    def weakest_dimension(self) -> str | None:
        """The dimension in which it did worst on its test sets; None where that was not measured."""
        return find_weakest(self.config)

    @property
    def what_it_reads(self) -> str:
        """Whether it reads the words that it hears, in words that follow "the student"; a transcript it never gets."""
        return say_what_it_reads(self.config)

    def is_unusual(self, duration_s: float) -> bool:
        """Say whether a clip is shorter or longer than nearly all that it was trained on, and heard less well.

        Parameters
        ----------
        duration_s
            Of the clip, in seconds.

        Returns
        -------
        bool
            False for a student that does not tell what it was trained on.
        """
        durations = self.config.get("training_durations_s")
        return durations is not None and not durations["shortest"] <= duration_s <= durations["longest"]

    @property
    def network(self) -> "StudentNetwork":
        """Waveforms and relative lengths to `EmotionOutput`, on the corpus's scale."""
        network: StudentNetwork = self.mods["network"]
        return network

    def forward(self, wavs: torch.Tensor, wav_lens: torch.Tensor | None = None) -> torch.Tensor:
        """Do what `predict_batch` does."""
        return self.predict_batch(wavs, wav_lens)

    @torch.inference_mode()
    def predict_batch(self, wavs: torch.Tensor, wav_lens: torch.Tensor | None = None) -> torch.Tensor:
        """Predict a padded batch.

        Parameters
        ----------
        wavs
            (B, N), waveforms at 16 kHz in -1..1.
        wav_lens
            (B,), relative lengths; None when none is padded.

        Returns
        -------
        torch.Tensor
            (B, 3): activation, valence, dominance on the corpus's scale.
        """
        prediction: torch.Tensor = self._hear(wavs, wav_lens).prediction
        return prediction

    @torch.inference_mode()
    def encode_batch(
        self, wavs: torch.Tensor, wav_lens: torch.Tensor | None = None, normalize: bool = False
    ) -> torch.Tensor:
        """Embed a padded batch, as SpeechBrain's `EncoderClassifier` does.

        Parameters
        ----------
        wavs, wav_lens
            As of `predict_batch`.
        normalize
            Whether to scale each embedding to unit length.

        Returns
        -------
        torch.Tensor
            (B, 1, E): what the emotion is read from, e_a in the paper.
        """
        embedding: torch.Tensor = self._hear(wavs, wav_lens).embedding
        return (torch.nn.functional.normalize(embedding, dim=1) if normalize else embedding).unsqueeze(1)

    def predict_clips(self, clips: Sequence[torch.Tensor], vad: bool = False) -> torch.Tensor:
        """Predict waveforms of any lengths.

        Parameters
        ----------
        clips
            Each (N,), 16 kHz in -1..1.
        vad
            As of `predict_file`.

        Returns
        -------
        torch.Tensor
            (B, 3), as of `predict_batch`.
        """
        prediction: torch.Tensor = self._hear_clips(
            [_without_silence(clip) if vad else clip for clip in clips]
        ).prediction
        return prediction

    def predict_file(self, path: str | Path, vad: bool = False) -> Emotion:
        """Predict one audio file.

        Parameters
        ----------
        path
            Any format, sampling rate and number of channels that libsndfile reads.
        vad
            Whether to leave out what comes before the first word and behind the last, by Silero's voice activity
            detector. Where it hears nobody, the whole clip is heard.

        Returns
        -------
        Emotion

        Raises
        ------
        InputError
            If the file can't be used, or is longer than `max_clip_s`.
        """
        return Emotion(*self._hear_clips([self._read_clip(path, vad)]).prediction[0].tolist())

    def predict_files(
        self, paths: Iterable[str | Path], batch_size: int = 8, progress: bool = False, vad: bool = False
    ) -> list[Prediction]:
        """Predict many audio files, in batches of similar length; a bad file does not stop the others.

        Parameters
        ----------
        paths
            Audio files.
        batch_size
            Files at a time.
        progress
            Whether to show a progress bar.
        vad
            As of `predict_file`.

        Returns
        -------
        list[Prediction]
            In the order of `paths`.

        Raises
        ------
        InputError
            If the batch size is below 1.
        """
        _check_batch_size(batch_size)
        paths = list(paths)
        durations = [read_header(path).duration for path in paths]
        by_length = sorted(range(len(paths)), key=durations.__getitem__)
        predictions: dict[int, Prediction] = {}
        with tqdm(total=len(paths), unit="file", disable=not progress) as bar:
            for start in range(0, len(paths), batch_size):
                batch = by_length[start : start + batch_size]
                clips = {}
                for i in batch:
                    try:
                        clips[i] = self._read_clip(paths[i], vad)
                    except InputError as error:
                        predictions[i] = Prediction(str(paths[i]), None, str(error))
                if clips:
                    heard = self._hear_clips(list(clips.values()))
                    for i, values, embedding in zip(clips, heard.prediction, heard.embedding, strict=True):
                        predictions[i] = Prediction(
                            str(paths[i]),
                            Emotion(*values.tolist()),
                            error=None,
                            duration_s=len(clips[i]) / SAMPLE_RATE,
                            embedding=embedding.cpu().numpy(),
                        )
                bar.update(len(batch))
        return [predictions[i] for i in range(len(paths))]

    def predict_timeline(
        self,
        path: str | Path,
        window_s: float | None = None,
        hop_s: float | None = None,
        batch_size: int = 8,
        progress: bool = False,
        vad: bool = False,
    ) -> Timeline:
        """Predict a recording of any length window by window, in memory that does not depend on its length.

        A window begins every `hop_s` as long as there is a whole one, and a last one ends where the recording ends.
        A recording shorter than a window is one window.

        Parameters
        ----------
        path
            Audio file, as for `predict_file`.
        window_s
            Length of a window, in seconds; at most `max_clip_s`. None for the student's own `window_s`.
        hop_s
            From the beginning of a window to the next, in seconds; at most a window. None for a quarter of one.
        batch_size
            Windows at a time.
        progress
            Whether to show a progress bar.
        vad
            Whether to hear of a window only what is between its first and its last word, as `predict_file` does; one
            in which nobody speaks has no values.

        Returns
        -------
        Timeline

        Raises
        ------
        InputError
            If the file, the lengths or the batch size can't be used.
        """
        _check_batch_size(batch_size)
        window_s = self.window_s if window_s is None else window_s
        hop_s = window_s / 4 if hop_s is None else hop_s
        if not 1 / SAMPLE_RATE <= hop_s <= window_s <= self.max_clip_s:
            raise InputError(
                f"Windows of {window_s:g} s, one each {hop_s:g} s, can't be used: a window is at most "
                f"{self.max_clip_s:g} s long, and a hop is above 0 and at most a window."
            )
        windows = _windows(stream_audio(path), round(window_s * SAMPLE_RATE), round(hop_s * SAMPLE_RATE))
        n_windows = 1 + max(0, math.ceil((read_header(path).duration - window_s) / hop_s))
        return self._predict_windows(windows, n_windows, batch_size, progress, vad)

    def predict_segments(
        self,
        path: str | Path,
        segments: Sequence[tuple[float, float]],
        batch_size: int = 8,
        progress: bool = False,
        vad: bool = False,
    ) -> Timeline:
        """Predict parts of a recording, such as somebody's turns, in memory that does not depend on its length.

        Parameters
        ----------
        path
            Audio file, as for `predict_file`.
        segments
            Begin and end of each, in seconds; they may overlap.
        batch_size, progress, vad
            As of `predict_timeline`.

        Returns
        -------
        Timeline
            A window for each segment, in their order.

        Raises
        ------
        InputError
            If the file or the batch size can't be used, or a segment is empty, longer than `max_clip_s`, or not within
            the recording.
        """
        _check_batch_size(batch_size)
        for start_s, end_s in segments:
            if not 0 <= start_s <= end_s - 1 / SAMPLE_RATE <= start_s + self.max_clip_s:
                raise InputError(
                    f"{path}: a segment from {start_s:g} to {end_s:g} s can't be heard: it begins at 0 or later and "
                    f"lasts between 0 and {self.max_clip_s:g} s."
                )
        spans = [(round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)) for start_s, end_s in segments]
        by_start = sorted(range(len(spans)), key=spans.__getitem__)
        parts = _cut(path, stream_audio(path), [spans[i] for i in by_start])
        heard = self._predict_windows(parts, len(spans), batch_size, progress, vad)
        order = np.argsort(by_start)
        return Timeline(*(column[order] for column in heard))

    def _predict_windows(
        self,
        windows: Iterator[tuple[int, torch.Tensor]],
        n_windows: int,
        batch_size: int,
        progress: bool,
        vad: bool,
    ) -> Timeline:
        """Predict windows, of which each comes with the sample at which it begins."""
        starts: list[float] = []
        ends: list[float] = []
        values: list[np.ndarray] = []
        with tqdm(total=n_windows, unit="window", disable=not progress) as bar:
            while batch := list(itertools.islice(windows, batch_size)):
                starts += [start / SAMPLE_RATE for start, _ in batch]
                ends += [(start + len(clip)) / SAMPLE_RATE for start, clip in batch]
                rows = np.full((len(batch), len(Emotion._fields)), np.nan)
                spoken = [trim_silence(clip) if vad else clip for _, clip in batch]
                heard = [i for i, clip in enumerate(spoken) if clip is not None]
                if heard:
                    rows[heard] = self._hear_clips([clip for clip in spoken if clip is not None]).prediction.cpu()
                values += list(rows)
                bar.update(len(batch))
        return Timeline(np.array(starts), np.array(ends), np.array(values).reshape(-1, len(Emotion._fields)))

    def _read_clip(self, path: str | Path, vad: bool) -> torch.Tensor:
        """Read a file of at most `max_clip_s`, and no more of it than that."""
        blocks = []
        for block in stream_audio(path):
            blocks.append(block)
            if sum(map(len, blocks)) > self.max_clip_s * SAMPLE_RATE:
                raise InputError(
                    f"The audio file {path} is longer than {self.max_clip_s:g} s, the most that is heard at once: "
                    "cut it, or ask for its emotion over time (predict_timeline, `ser-ts predict --timeline`)."
                )
        clip = torch.cat(blocks)
        return _without_silence(clip) if vad else clip

    @torch.inference_mode()
    def _hear_clips(self, clips: list[torch.Tensor]) -> EmotionOutput:
        """Hear waveforms of any lengths, each (N,)."""
        lengths = torch.tensor([len(clip) for clip in clips])
        wavs = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        return self._hear(wavs, lengths / lengths.max())

    def _hear(self, wavs: torch.Tensor, wav_lens: torch.Tensor | None) -> EmotionOutput:
        """Hear a padded batch, as `predict_batch` takes it."""
        wavs = torch.as_tensor(wavs, dtype=torch.float32)
        if wavs.dim() != 2 or wavs.numel() == 0 or not wavs.isfinite().all():
            raise InputError(f"wavs of shape {tuple(wavs.shape)} aren't a batch (B, N) of finite samples.")
        wav_lens = torch.ones(len(wavs)) if wav_lens is None else torch.as_tensor(wav_lens)
        frozen = compute_frozen(self.network.speech_encoder, wavs.to(self.device), wav_lens.to(self.device))
        output: EmotionOutput = self.network(*frozen)
        return output


def _without_silence(clip: torch.Tensor) -> torch.Tensor:
    """Leave out silence around the words; where nobody speaks, nothing."""
    spoken = trim_silence(clip)
    return clip if spoken is None else spoken


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give a whole number from 1 on.")


def _windows(blocks: Iterable[torch.Tensor], window: int, hop: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Cut a stream of samples into windows; yield where each begins, and its samples."""
    held = torch.empty(0)  # the samples from the last window on
    start: int | None = None  # where that begins
    for block in blocks:
        held = torch.cat([held, block])
        while len(held) >= (window if start is None else hop + window):
            held, start = (held, 0) if start is None else (held[hop:], start + hop)
            yield start, held[:window]
    if start is None:
        yield 0, held
    elif len(held) > window:
        yield start + len(held) - window, held[-window:]


def _cut(
    path: str | Path, blocks: Iterable[torch.Tensor], spans: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Cut a stream of samples at spans, sorted by their start; yield where each begins, and its samples."""
    blocks = iter(blocks)
    held, first = torch.empty(0), 0  # the samples that are still needed, and the number of the first of them
    for start, end in spans:
        while first + len(held) < end:
            block = next(blocks, None)
            if block is None:
                raise InputError(
                    f"{path} ends at {(first + len(held)) / SAMPLE_RATE:.2f} s, and a segment at "
                    f"{end / SAMPLE_RATE:.2f} s: correct the segments."
                )
            held = torch.cat([held, block])
            passed = min(max(start - first, 0), len(held))
            held, first = held[passed:], first + passed
        held, first = held[start - first :], start
        yield start, held[: end - start]
