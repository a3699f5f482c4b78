"""Public models of emotion: published by others, loaded without their code, to serve where a student does.

Two structures are known (`STRUCTURES`):

- wav2vec 2.0, whose frames' mean goes through a hidden layer: audEERING's (Wagner et al. 2023, *Dawn of the
  transformer era in speech emotion recognition*, arXiv:2203.07378),
- WavLM large, whose frames are pooled by attentive statistics (Okabe et al. 2018, arXiv:1803.10963): the baseline of
  the Odyssey 2024 challenge (github.com/msplabresearch/MSP-Podcast_Challenge).

A folder or a name on the Hub is one of them by what its ``config.json`` says. Both tell arousal, dominance and valence
in about 0 to 1, to which the labels of their corpus, 1 to 7, were brought for training; here that is undone
(`LABEL_RANGE`), and what is told is in the order of `ser_ts_lobes.DIMENSIONS`.

Files are a stranger's: values are bounded as a student's are (`ser_ts_lobes.student.network`), weights are of just the
names and shapes that the structure has. A ``pytorch_model.bin``, where there is no ``model.safetensors``, is a pickle,
of which nothing but tensors is taken (``weights_only``).
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import safetensors.torch
import torch
from huggingface_hub.errors import EntryNotFoundError

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.devices import check_device
from ser_ts_lobes.errors import InputError, first_few
from ser_ts_lobes.lobes.emotion import EmotionOutput, LabelScale
from ser_ts_lobes.lobes.encoder import valid_mask
from ser_ts_lobes.lobes.speech import SAMPLE_RATE, SpeechEncoder
from ser_ts_lobes.student.config import CONFIG_FILE, WEIGHTS_FILE, is_size, read_values
from ser_ts_lobes.student.inference import EmotionRegressor, StudentFiles, find_file
from ser_ts_lobes.student.network import StudentNetwork, check_encoder, hear_noise, in_one_sentence

PREPROCESSOR_FILE, PICKLE_FILE, CARD_FILE = "preprocessor_config.json", "pytorch_model.bin", "README.md"

#: What 0 and 1 stand for: the ends of the scale on which the corpus of both models was rated.
LABEL_RANGE = (1.0, 7.0)

# The corpus's clips last 2.75 to 11 s; nobody publishes their median: 6 s is ours, and what a timeline's windows take.
_DURATIONS_S = {"shortest": 2.75, "median": 6.0, "longest": 11.0}
# By our name of a dimension, theirs; and the order in which both models tell them, unless config.json has another.
_LABELS = dict(zip(DIMENSIONS, ("arousal", "valence", "dominance"), strict=True))
_PUBLISHED_ORDER = ["arousal", "dominance", "valence"]
# Of a wav2vec 2.0, what makes its network.
_WAV2VEC2_KEYS = (
    "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act layer_norm_eps feat_extract_norm "
    "feat_extract_activation conv_dim conv_stride conv_kernel conv_bias num_conv_pos_embeddings "
    "num_conv_pos_embedding_groups do_stable_layer_norm"
).split()
# WavLM large, as its config.json has it: the model's own says only how large it is and that it is one.
_WAVLM_SOURCE = "microsoft/wavlm-large"
_WAVLM_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "classifier_hidden_layers")
_WAVLM_LARGE = {"conv_bias": False, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
# Without these a network has no vector that stands for what is masked in training.
_UNMASKED = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
_MASK_WEIGHT = "masked_spec_embed"
# How PyTorch calls the parts of a normalised weight since version 2.1.
_NEW_NAMES = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
_NAME = re.compile(r"[\w./+-]{1,60}")  # of a licence or a corpus, as the Hub has them


class _Head(torch.nn.Module):
    """From frames to an embedding, the pooled frames, and the three dimensions in about 0 to 1.

    A subclass gives `pool` and `tell`; `order` says where in what it tells each of `DIMENSIONS` is.
    """

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def pool(self, frames: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Pool frames (B, T, D), of which those that `valid` (B, T, 1) names count."""
        raise NotImplementedError

    def tell(self, pooled: torch.Tensor) -> torch.Tensor:
        """Tell the three dimensions, (B, 3), in the published order."""
        raise NotImplementedError

    def forward(self, frames: torch.Tensor, frame_lens: torch.Tensor) -> EmotionOutput:
        """Embed and tell, as `ser_ts_lobes.lobes.emotion.EmotionModel` does."""
        pooled = self.pool(frames, valid_mask(frame_lens, frames.shape[1]).unsqueeze(-1))
        return EmotionOutput(pooled, self.tell(pooled)[:, self.order])


class _MeanHead(_Head):
    """The mean over the frames, a hidden layer with tanh, a linear layer. Weights are called as published."""

    def __init__(self, size: int, order: list[int]) -> None:
        super().__init__(order)
        self.classifier = torch.nn.ModuleDict(
            {"dense": torch.nn.Linear(size, size), "out_proj": torch.nn.Linear(size, len(order))}
        )

    def pool(self, frames: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return (frames * valid).sum(1) / valid.sum(1)

    def tell(self, pooled: torch.Tensor) -> torch.Tensor:
        told: torch.Tensor = self.classifier["out_proj"](self.classifier["dense"](pooled).tanh())
        return told


class _StatisticsHead(_Head):
    """Weighted mean and deviation of the frames, hidden layers, a linear layer. Weights are called as published.

    The original takes one frame of padding too many of the shorter clips of a batch; here, as there for a clip alone,
    none.
    """

    def __init__(self, size: int, n_layers: int, order: list[int]) -> None:
        super().__init__(order)
        self.pool_model: Any = torch.nn.Module()
        self.pool_model.sap_linear = torch.nn.Linear(size, size)
        self.pool_model.attention = torch.nn.Parameter(torch.empty(size, 1))
        layers = [
            torch.nn.Sequential(torch.nn.Linear(n_inputs, size), torch.nn.LayerNorm(size), torch.nn.ReLU())
            for n_inputs in (2 * size, *[size] * (n_layers - 1))
        ]
        self.ser_model = torch.nn.ModuleDict(
            {"fc": torch.nn.Sequential(*layers), "out": torch.nn.Sequential(torch.nn.Linear(size, len(order)))}
        )

    def pool(self, frames: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        score = self.pool_model.sap_linear(frames).tanh() @ self.pool_model.attention
        weights = score.masked_fill(~valid, -torch.inf).softmax(dim=1)
        mean = (weights * frames).sum(1)
        variance = (weights * frames.square()).sum(1) - mean.square()
        return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1)  # 1e-5: theirs

    def tell(self, pooled: torch.Tensor) -> torch.Tensor:
        told: torch.Tensor = self.ser_model["out"](self.ser_model["fc"](pooled))
        return told


class _RescalingEncoder(SpeechEncoder):
    """A speech encoder that hears waveforms less a mean, divided by a standard deviation: those of its training set."""

    def __init__(self, source: dict[str, Any], mean: float, std: float) -> None:
        super().__init__(source)
        self.mean, self.std = mean, std

    def frozen_forward(self, inputs: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().frozen_forward((inputs - self.mean) / (self.std + 1e-6), lens)  # 1e-6: theirs


def _make_wav2vec2(config: dict[str, Any], preprocessor: dict[str, Any]) -> tuple[SpeechEncoder, _Head]:
    if config.get("pooling_mode", "mean") != "mean":
        raise ValueError("its frames are not pooled by their mean")
    normalize = preprocessor.get("do_normalize")
    if type(normalize) is not bool:
        raise ValueError(f"no {PREPROCESSOR_FILE} beside it says do_normalize")
    model = {name: config[name] for name in _WAV2VEC2_KEYS if name in config}
    source = {
        "model": {"model_type": "wav2vec2", **model, **_UNMASKED},
        "feature_extractor": {"do_normalize": normalize},
    }
    check_encoder(source)
    encoder = SpeechEncoder(source)
    return encoder, _MeanHead(encoder.output_size, _read_order(config))


def _make_wavlm(config: dict[str, Any], preprocessor: dict[str, Any]) -> tuple[SpeechEncoder, _Head]:
    del preprocessor  # what the published one has of it is not used there, either
    if config.get("ssl_type") != _WAVLM_SOURCE:
        raise ValueError(f"its ssl_type is not {_WAVLM_SOURCE}")
    sizes: dict[str, Any] = {name: config.get(name) for name in _WAVLM_SIZES}
    if not all(map(is_size, sizes.values())):
        raise ValueError(f"{', '.join(sizes)} are not all whole numbers above 0")
    n_layers = sizes.pop("classifier_hidden_layers")
    mean, std = config.get("mean"), config.get("std")
    if not (isinstance(mean, float | int) and isinstance(std, float | int) and std > 0):
        raise ValueError("it does not say mean and std of the waveforms that it was trained on")
    model = {**sizes, "intermediate_size": 4 * sizes["hidden_size"], **_WAVLM_LARGE, **_UNMASKED}
    source = {"model": {"model_type": "wavlm", **model}, "feature_extractor": {"do_normalize": False}}
    check_encoder(source)
    encoder = _RescalingEncoder(source, mean, std)
    return encoder, _StatisticsHead(encoder.output_size, n_layers, _read_order(config))


def _read_order(config: dict[str, Any]) -> list[int]:
    """Read where in what is told each of `DIMENSIONS` is."""
    said = config.get("id2label") or dict(enumerate(_PUBLISHED_ORDER))
    labels = [said[key] for key in sorted(said, key=int)]
    if sorted(labels) != sorted(_PUBLISHED_ORDER):
        raise ValueError(f"it tells {', '.join(map(str, labels))}, not {', '.join(_PUBLISHED_ORDER)}")
    return [labels.index(_LABELS[dimension]) for dimension in DIMENSIONS]


class Structure(NamedTuple):
    """A structure that is known, by the model that was published with it.

    Attributes
    ----------
    published
        Its name on the Hub.
    licence
        Its licence, as published.
    says
        What ``config.json`` has.
    encoder
        What the names of the speech encoder's weights begin with.
    make
        Makes speech encoder and head from the configuration and the preprocessor's.
    """

    published: str
    licence: str
    says: Mapping[str, Any]
    encoder: str
    make: Callable[[dict[str, Any], dict[str, Any]], tuple[SpeechEncoder, _Head]]


#: The structures that are known.
STRUCTURES = (
    Structure(
        "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        "cc-by-nc-sa-4.0",
        {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForSpeechClassification"]},
        "wav2vec2.",
        _make_wav2vec2,
    ),
    Structure(
        "3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes",
        "mit",
        {"model_type": "ser", "architectures": ["SERModel"]},
        "ssl_model.",
        _make_wavlm,
    ),
)


def find_structure(config: dict[str, Any]) -> Structure | None:
    """Tell of which structure a model is.

    Parameters
    ----------
    config
        Its ``config.json``.

    Returns
    -------
    Structure or None
        None for one that is not known, such as a student's.

    Example
    -------
    >>> find_structure({"model_type": "ser", "architectures": ["SERModel"]}).published
    '3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes'
    >>> find_structure({"format": "ser_ts_lobes student 1"}) is None
    True
    """
    for structure in STRUCTURES:
        if all(config.get(name) == value for name, value in structure.says.items()):
            return structure
    return None


class PublicFiles(StudentFiles):
    """The files of a public model, found in a folder or on the Hub.

    Parameters
    ----------
    structure
        Of which it is.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure

    def find(self, source: str | Path, revision: str | None) -> None:
        """Find them, as `StudentFiles.find` does; weights in safetensors rather than pickled."""
        self.name = Path(source).resolve().name if Path(source).is_dir() else str(source)
        self.config_path = find_file(source, CONFIG_FILE, revision)
        weights_path = _find_if_there(source, WEIGHTS_FILE, revision) or _find_if_there(source, PICKLE_FILE, revision)
        if weights_path is None:
            raise InputError(f"{source} has neither {WEIGHTS_FILE} nor {PICKLE_FILE}: get all files of the model.")
        self.weights_path = weights_path
        self.card_path = _find_if_there(source, CARD_FILE, revision)
        self.preprocessor_path = _find_if_there(source, PREPROCESSOR_FILE, revision)

    def read(self) -> tuple[dict[str, Any], StudentNetwork]:
        """Read what was found: what a student's configuration would say, as far as it is known, and the network."""
        config = read_values(self.config_path)
        preprocessor = {} if self.preprocessor_path is None else read_values(self.preprocessor_path)
        with in_one_sentence(f"get it again from {self.structure.published}"):
            if {SAMPLE_RATE} != {values.get("sampling_rate", SAMPLE_RATE) for values in (config, preprocessor)}:
                raise ValueError(f"it does not hear {SAMPLE_RATE} samples a second")
            with torch.device("meta"):
                encoder, head = self.structure.make(config, preprocessor)
            network = StudentNetwork(encoder, head, _unit_scale())
            weights = _read_weights(Path(self.weights_path), self.structure.encoder)
            _check_weights(self.weights_path, weights, network)
            network.load_state_dict(weights | network.label_scale.state_dict(prefix="label_scale."), assign=True)
            network.eval().requires_grad_(False)
            hear_noise(network)
        return self._describe(network), network

    def _describe(self, network: StudentNetwork) -> dict[str, Any]:
        card = _read_card(self.card_path)
        return {
            "system": self.name,
            "corpus": _say_corpus(card),
            "licence": _say_licence(card, self.structure),
            "encoder": network.speech_encoder.configuration(),
            "label_range": list(LABEL_RANGE),
            "training_durations_s": _DURATIONS_S,
            "test": {},
        }


def _find_if_there(source: str | Path, name: str, revision: str | None) -> Path | None:
    try:
        path = Path(find_file(source, name, revision))
    except InputError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return None
        raise
    return path if path.is_file() else None


def _unit_scale() -> LabelScale:
    """Give the scale that brings 0 to 1 to `LABEL_RANGE`."""
    scale = LabelScale()
    scale.mean.fill_(LABEL_RANGE[0])
    scale.std.fill_(LABEL_RANGE[1] - LABEL_RANGE[0])
    return scale


def _read_weights(path: Path, encoder: str) -> dict[str, torch.Tensor]:
    """Read weights in float32, by their names in `StudentNetwork`."""
    try:
        weights = (
            safetensors.torch.load_file(path)
            if path.suffix == Path(WEIGHTS_FILE).suffix
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        items = [(_rename(name, encoder), weight.float()) for name, weight in weights.items()]
    except Exception as error:  # whatever a stranger's file leads to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} holds no weights that can be read safely ({reason}): get it again.") from error
    return {name: weight for name, weight in items if not name.endswith(_MASK_WEIGHT)}


def _rename(name: str, encoder: str) -> str:
    for old, new in _NEW_NAMES.items():
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return f"speech_encoder.model.{name.removeprefix(encoder)}" if name.startswith(encoder) else f"model.{name}"


def _check_weights(path: str | Path, weights: dict[str, torch.Tensor], network: StudentNetwork) -> None:
    """Refuse weights of other names or shapes than the network's."""
    there = {name: tuple(weight.shape) for name, weight in weights.items()}
    needed = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    needed = {name: shape for name, shape in needed.items() if not name.startswith("label_scale.")}
    for what, names in (
        ("lacks", needed.keys() - there.keys()),
        ("has besides", there.keys() - needed.keys()),
        ("has in another shape", {name for name in needed.keys() & there.keys() if needed[name] != there[name]}),
    ):
        if names:
            raise InputError(
                f"{path} doesn't hold the weights that {CONFIG_FILE} describes: it {what} {first_few(sorted(names))}."
            )


def _read_card(path: Path | None) -> dict[str, Any]:
    """Read the head of a model's card; of one that has none, nothing."""
    try:
        from huggingface_hub.repocard import metadata_load  # a fifth of a second, which students need not wait for

        return {} if path is None else metadata_load(path) or {}
    except Exception:  # a card is for people, and may hold anything
        return {}


def _say_licence(card: dict[str, Any], structure: Structure) -> str:
    """Say what licence a card states; of one that states none, how the model was published."""
    licence = card.get("license")
    if not _is_name(licence):
        licence = f"not stated with it; {structure.published} was published under {structure.licence}"
    return f"{licence} (not for commercial use)" if "-nc-" in licence else licence


def _say_corpus(card: dict[str, Any]) -> str:
    """Say, behind "was trained on", what a card states."""
    names = card.get("datasets")
    return (
        ", ".join(names)
        if isinstance(names, list) and names and all(map(_is_name, names))
        else "the corpus that its card names"
    )


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def load_regressor(source: str | Path, device: str = "cpu", revision: str | None = None) -> EmotionRegressor:
    """Load a student, or a public model that serves as one; no code of it is run.

    What licence a public model has is written to standard error, and is in its ``config``.

    Parameters
    ----------
    source
        A student, as for `EmotionRegressor.from_pretrained`; or a folder, or a name on the Hub, of a model of one of
        `STRUCTURES`.
    device
        Where it runs, such as ``cpu`` or ``cuda:0``.
    revision
        Branch, tag or commit on the Hub.

    Returns
    -------
    EmotionRegressor
        The ``config`` of a public model tells neither its training labels nor test scores.

    Raises
    ------
    InputError
        If the source can't be had, is neither, or lacks something, or there is no such device.

    Example
    -------
    >>> load_regressor(getfixture("student_folder")).config["system"]
    'ft'
    """
    config_path = Path(find_file(source, CONFIG_FILE, revision))
    structure = find_structure(read_values(config_path)) if config_path.is_file() else None
    if structure is None:
        return EmotionRegressor.from_pretrained(source, device, revision)
    check_device(device)
    files = PublicFiles(structure)
    files.find(source, revision)
    regressor = EmotionRegressor(hparams={"pretrainer": files}, run_opts={"device": device})
    print(f"note: licence of the model {files.name}: {regressor.config['licence']}", file=sys.stderr)
    return regressor
