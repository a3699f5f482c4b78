"""A student's network: made from a configuration and weights, of which neither can run code.

``model.safetensors`` holds the weights. They and ``config.json`` (`ser_ts_lobes.student.config`) are treated as a
stranger's: nothing is allocated, fetched or run on what they claim. What a configuration asks for is bounded three
times:

- any value by what a student's can be (`ser_ts_lobes.student.config.read_config`): numbers, lists, texts and nesting
  have a size,
- the network's memory by the weights: it is made without memory, and gets only weights of just its names and shapes,
- what weights do not show, which is what a second of sound costs and how many layers are made, by limits of its own.

A network that then can't hear a moment of noise is refused, too.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.fingerprint import fingerprint_file
from ser_ts_lobes.lobes.emotion import EmotionModel, EmotionOutput, LabelScale
from ser_ts_lobes.lobes.encoder import model_config
from ser_ts_lobes.lobes.listener import is_listener
from ser_ts_lobes.lobes.pooling import GRUPooling, TransformerPooling, make_pooling
from ser_ts_lobes.lobes.speech import SAMPLE_RATE, load_speech_encoder
from ser_ts_lobes.student.config import CONFIG_FILE, MAX_TEXT, WEIGHTS_DIGEST, is_size

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ser_ts_lobes.lobes.speech import ListenerEncoder, SpeechEncoder, WhisperEncoder

_MAX_HEADER_BYTES = 2**20
_MAX_HEADS = 64
# Of what a second of sound becomes. HuBERT's convolutions make 3.2 million values, and hear 25 ms a frame.
_MAX_VALUES_PER_S, _MAX_FIELD, _FRAME_STEPS = 2**23, SAMPLE_RATE, range(160, 1601)
_N_FFTS, _MIN_HOP, _MAX_MELS = range(64, 4097), 80, 512
# What weights of a type may be written as.
_DTYPES = {torch.float32: ("F32", "F16"), torch.uint8: ("U8",)}


class StudentNetwork(torch.nn.Module):
    """From waveforms to the three emotion dimensions on the corpus's scale.

    Parameters
    ----------
    speech_encoder
        Makes frames.
    model
        Makes embedding and prediction of them, as `EmotionModel` does.
    label_scale
        Brings predictions back to the corpus's scale.
    """

    def __init__(
        self,
        speech_encoder: "SpeechEncoder | WhisperEncoder | ListenerEncoder",
        model: torch.nn.Module,
        label_scale: LabelScale,
    ) -> None:
        super().__init__()
        self.speech_encoder = speech_encoder
        self.model = model
        self.label_scale = label_scale

    def forward(self, wavs: torch.Tensor, wav_lens: torch.Tensor) -> EmotionOutput:
        """Embed and predict.

        Parameters
        ----------
        wavs
            (B, N), 16 kHz waveforms in -1..1; or what the frozen part of the speech encoder makes of them, (B, T, D).
        wav_lens
            (B,), relative lengths of `wavs`.

        Returns
        -------
        EmotionOutput
            ``embedding`` (B, E); ``prediction`` (B, 3): activation, valence, dominance on the corpus's scale.
        """
        frames, frame_lens = self.speech_encoder(wavs, wav_lens)
        output = self.model(frames, frame_lens)
        return EmotionOutput(output.embedding, self.label_scale.restore(output.prediction))


def describe_network(network: StudentNetwork) -> dict[str, Any]:
    """Say what a network is made from; the inverse of what `load_network` does with a configuration.

    Parameters
    ----------
    network
        A network with GRU or transformer pooling.

    Returns
    -------
    dict
        For JSON: ``encoder``, ``pooling``, ``embedding_size``.
    """
    encoder, model = network.speech_encoder, network.model
    assert isinstance(model, EmotionModel)
    pooling = model.speech_pooling
    assert not isinstance(encoder.source, dict)  # it was trained on an encoder that has weights of its own
    # A path says nothing to others, and may say too much.
    local = Path(encoder.source).exists()
    if isinstance(pooling, GRUPooling):
        kind, input_size, num_layers = "gru", pooling.gru.input_size, pooling.gru.num_layers
    else:
        assert isinstance(pooling, TransformerPooling)
        kind, input_size, num_layers = "transformer", pooling.projection.in_features, pooling.transformer.num_layers
    return {
        "encoder": {
            "source": Path(encoder.source).name if local else encoder.source,
            "base_model": None if local else encoder.source,
            **encoder.configuration(),
        },
        "pooling": {
            "kind": kind,
            "input_size": input_size,
            "hidden_size": pooling.output_size,
            "num_layers": num_layers,
        },
        "embedding_size": model.projection.out_features,
    }


def save_weights(network: StudentNetwork, path: str | Path, half: bool = False) -> None:
    """Write a network's weights as safetensors.

    Parameters
    ----------
    network
        Whose weights to write.
    path
        ``model.safetensors``.
    half
        Whether to round them to float16; the label scale stays exact, and so does what is no number with a point.
    """
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    if half:
        exact = {
            name: weight
            for name, weight in weights.items()
            if name.startswith("label_scale.") or not weight.is_floating_point()
        }
        weights = {name: weight.half() for name, weight in weights.items()} | exact
    path = Path(path)
    path.touch()
    mode = path.stat().st_mode
    safetensors.torch.save_file(weights, path, {"format": "pt"})
    path.chmod(mode)  # safetensors lets nobody but the owner read


def load_network(config: dict[str, Any], path: str | Path) -> StudentNetwork:
    """Make the network that a configuration describes, with weights from a safetensors file.

    The network is first made without memory; only weights of just those names and shapes are then read.

    Parameters
    ----------
    config
        From `ser_ts_lobes.student.config.read_config`.
    path
        ``model.safetensors``.

    Returns
    -------
    StudentNetwork
        In float32, on the CPU, in evaluation mode.

    Raises
    ------
    InputError
        If the configuration describes no network that can hear, or the file isn't in safetensors format (a pickle,
        say), holds other weights, or is not the one that was written with the configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: a student's weights are a safetensors file. Files of other kinds, such as "
            "*.bin, *.ckpt and *.pt, are pickles, which can run code, and are never read."
        )
    if WEIGHTS_DIGEST in config and config[WEIGHTS_DIGEST] != fingerprint_file(path):
        raise InputError(
            f"{path} is not the file that {CONFIG_FILE} beside it tells of: get or export the student again."
        )
    with in_one_sentence(), torch.device("meta"):
        network = make_network(config)
    network.load_state_dict(_read_weights(path, network.state_dict()), assign=True)
    network.eval().requires_grad_(False)
    with in_one_sentence():
        hear_noise(network)
    return network


@contextlib.contextmanager
def in_one_sentence(advice: str = "export it again") -> Iterator[None]:
    """Say in one sentence whatever a made-up configuration leads to.

    Parameters
    ----------
    advice
        What to do then.

    Raises
    ------
    InputError
        In place of any error.
    """
    try:
        yield
    except InputError as error:
        raise InputError(str(error)[: 2 * MAX_TEXT]) from error  # which may quote a value as long as the file
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_TEXT] or type(error).__name__
        raise InputError(f"{CONFIG_FILE} describes no network that can be made ({reason}): {advice}.") from error


def make_network(config: dict[str, Any]) -> StudentNetwork:
    """Make the network that a configuration describes, without its weights.

    Parameters
    ----------
    config
        From `ser_ts_lobes.student.config.read_config`.

    Returns
    -------
    StudentNetwork

    Raises
    ------
    ValueError
        If it describes none that can hear; and whatever making it raises.
    """
    check_encoder(config["encoder"])
    kind, sizes = config["pooling"].get("kind"), {**config["pooling"]}
    sizes.pop("kind", None)
    if set(sizes) != {"input_size", "hidden_size", "num_layers"} or not all(map(is_size, sizes.values())):
        raise ValueError("pooling needs a kind and input_size, hidden_size and num_layers above 0, no more")
    encoder = load_speech_encoder(config["encoder"])
    model = EmotionModel(speech_pooling=make_pooling(kind, **sizes), embedding_size=config["embedding_size"])
    return StudentNetwork(encoder, model, LabelScale())


def check_encoder(encoder: dict[str, Any]) -> None:
    """Refuse what would make sound expensive to hear, which the shapes of weights don't tell.

    Parameters
    ----------
    encoder
        As of `ser_ts_lobes.lobes.encoder.Encoder.configuration`, by anybody.

    Raises
    ------
    ValueError
        If it can't be an encoder's.
    """
    if is_listener(encoder):
        sizes = {**encoder["model"]}
        if not all(is_size(sizes.get(name)) for name in ("num_heads", "stack", "kernel_size")):
            raise ValueError("a listener needs num_heads, stack and kernel_size above 0")
        if sizes["num_heads"] > _MAX_HEADS:
            raise ValueError(f"it has more than {_MAX_HEADS} attention heads")
        if is_listener(encoder["speech"]):
            raise ValueError("it is a listener on a listener")
        if "reader" in encoder:
            _check_reader(encoder["reader"])
        return check_encoder(encoder["speech"])
    kind = encoder["model"].get("model_type")
    features: Any = encoder.get("feature_extractor")
    if kind == "whisper":
        model = model_config(encoder)
        sizes = {name: features[name] for name in ("feature_size", "n_fft", "hop_length")}
        mels, n_fft, hop = sizes.values()
        hears = (
            sizes == features
            and all(map(is_size, sizes.values()))
            and mels == model.num_mel_bins
            and mels <= _MAX_MELS
            and n_fft in _N_FFTS
            and _MIN_HOP <= hop <= n_fft
        )
    elif kind in ("hubert", "wav2vec2", "wavlm"):
        model = model_config(encoder)
        hears = features in ({"do_normalize": True}, {"do_normalize": False}) and _hears_by_convolutions(model)
    else:
        return  # it won't be made
    if not hears:
        raise ValueError("its feature_extractor or its convolutions are not a speech encoder's")
    if not 0 < model.num_attention_heads <= _MAX_HEADS:
        raise ValueError(f"it has no attention heads, or more than {_MAX_HEADS}")


def _check_reader(reader: dict[str, Any]) -> None:
    """Refuse a reader that is not made of whole numbers and a BERT's configuration."""
    sizes = {**reader}
    text, lowercase = sizes.pop("text"), sizes.pop("lowercase")
    if type(lowercase) is not bool or not all(map(is_size, sizes.values())):
        raise ValueError("a reader needs sizes above 0, and lowercase as true or false")
    if not 0 < model_config(text).num_attention_heads <= _MAX_HEADS:
        raise ValueError(f"its reader has no attention heads, or more than {_MAX_HEADS}")


def _hears_by_convolutions(model: "PreTrainedConfig") -> bool:
    """Whether a configuration's convolutions are as fast, and as near-sighted, as a speech encoder's."""
    field, step, values_per_s = 1, 1, 0  # samples that a frame hears; samples from a frame to the next
    for layer in zip(model.conv_dim, model.conv_kernel, model.conv_stride, strict=True):
        if not all(map(is_size, layer)):
            return False
        size, kernel, stride = layer
        field += (kernel - 1) * step
        step *= stride
        values_per_s += size * SAMPLE_RATE / step
    return step in _FRAME_STEPS and field <= _MAX_FIELD and values_per_s <= _MAX_VALUES_PER_S


def _read_weights(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read the weights of a safetensors file, if they have the names and shapes that are expected."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER_BYTES:
            raise safetensors.SafetensorError(f"a header of {size:,} bytes")
        with safetensors.safe_open(path, "pt") as file:
            headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
            shapes = {name: tuple(header.get_shape()) for name, header in headers.items()}
            if shapes != {name: tuple(weight.shape) for name, weight in expected.items()} or any(
                header.get_dtype() not in _DTYPES[expected[name].dtype] for name, header in headers.items()
            ):
                raise InputError(f"{path} doesn't hold the weights of the network that {CONFIG_FILE} describes.")
            return {name: file.get_tensor(name).to(expected[name].dtype) for name in shapes}
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is not in safetensors format ({error}): it is damaged, or a pickle by another name, which could "
            "run code and is refused."
        ) from error


def hear_noise(network: torch.nn.Module) -> None:
    """Refuse a network that fails, or tells no numbers, for a moment of noise.

    Parameters
    ----------
    network
        From waveforms and relative lengths to `EmotionOutput`.

    Raises
    ------
    ValueError
        If what it tells is not finite; and whatever it raises itself.
    """
    noise = torch.randn(1, SAMPLE_RATE // 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedding, prediction = network(noise, torch.ones(1))
    if not (embedding.isfinite().all() and prediction.isfinite().all()):
        raise ValueError("what it hears becomes no numbers")
