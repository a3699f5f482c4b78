"""A student as it is shared: a configuration and weights, of which neither can run code.

``config.json`` says all that the network is made from, and what a user should know of it; ``model.safetensors`` holds
the weights. Both are treated as a stranger's: nothing is allocated, fetched or run on what they claim.
"""

import json
from pathlib import Path

import safetensors.torch
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.emotion import EmotionModel, EmotionOutput, LabelScale
from ser_ts_lobes.lobes.pooling import GRUPooling, make_pooling
from ser_ts_lobes.lobes.speech import load_speech_encoder

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
#: What ``config.json`` says of itself; another format gets another number.
FORMAT = "ser_ts_lobes student 1"

_MAX_CONFIG_BYTES = 2**20
_MAX_LAYERS = 1000
# The keys that loading needs, and their types; the rest is for people.
_KEYS = {
    "system": str,
    "corpus": str,
    "encoder": dict,
    "pooling": dict,
    "embedding_size": int,
    "label_range": list,
    "label_mean": list,
    "label_std": list,
    "label_histogram": dict,
    "test": dict,
}


class StudentNetwork(torch.nn.Module):
    """From waveforms to the three emotion dimensions on the corpus's scale.

    Parameters
    ----------
    speech_encoder : ser_ts_lobes.lobes.speech.SpeechEncoder or ser_ts_lobes.lobes.speech.WhisperEncoder
        Makes frames.
    model : ser_ts_lobes.lobes.emotion.EmotionModel
        Makes embedding and prediction of them.
    label_scale : ser_ts_lobes.lobes.emotion.LabelScale
        Brings predictions back to the corpus's scale.
    """

    def __init__(self, speech_encoder, model, label_scale):
        super().__init__()
        self.speech_encoder = speech_encoder
        self.model = model
        self.label_scale = label_scale

    def forward(self, wavs, wav_lens):
        """Embed and predict.

        Parameters
        ----------
        wavs : torch.Tensor
            (B, N), 16 kHz waveforms in -1..1.
        wav_lens : torch.Tensor
            (B,), relative lengths.

        Returns
        -------
        EmotionOutput
            ``embedding`` (B, E); ``prediction`` (B, 3): activation, valence, dominance on the corpus's scale.
        """
        frames, frame_lens = self.speech_encoder(wavs, wav_lens)
        output = self.model(frames, frame_lens)
        return EmotionOutput(output.embedding, self.label_scale.restore(output.prediction))


def describe_network(network):
    """Say what a network is made from; the inverse of what `load_network` does with a configuration.

    Parameters
    ----------
    network : StudentNetwork
        With GRU or transformer pooling.

    Returns
    -------
    dict
        For JSON: ``encoder``, ``pooling``, ``embedding_size``.
    """
    encoder, pooling = network.speech_encoder, network.model.speech_pooling
    # A path says nothing to others, and may say too much.
    local = Path(encoder.source).exists()
    if isinstance(pooling, GRUPooling):
        kind, input_size, num_layers = "gru", pooling.gru.input_size, pooling.gru.num_layers
    else:
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
        "embedding_size": network.model.projection.out_features,
    }


def save_weights(network, path, half=False):
    """Write a network's weights as safetensors.

    Parameters
    ----------
    network : StudentNetwork
        Whose.
    path : str or pathlib.Path
        ``model.safetensors``.
    half : bool
        Whether to round them to float16; the label scale stays exact.
    """
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    if half:
        exact = {name: weight for name, weight in weights.items() if name.startswith("label_scale.")}
        weights = {name: weight.half() for name, weight in weights.items()} | exact
    path = Path(path)
    path.touch()
    mode = path.stat().st_mode
    safetensors.torch.save_file(weights, path, {"format": "pt"})
    path.chmod(mode)  # safetensors lets nobody but the owner read


def read_config(path):
    """Read and check a student's ``config.json``.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If it is missing, or not the configuration of a student.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: a student is a folder that `ser-ts export` wrote.")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise InputError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes, which no student's configuration is.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: export the student again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{path} doesn't say format: {FORMAT!r}, as a student's does; `ser-ts export` writes it.")
    wrong = [name for name, kind in _KEYS.items() if not isinstance(config.get(name), kind)]
    wrong += [name for name in ("label_mean", "label_std") if name not in wrong and not _numbers(config[name], 3)]
    if wrong or not _numbers(config["label_range"], 2):
        raise InputError(f"{path}: {', '.join(wrong or ['label_range'])} is missing or malformed; export it again.")
    return config


def load_network(config, path):
    """Make the network that a configuration describes, with weights from a safetensors file.

    The network is first made without memory; only weights of just those names and shapes are then read.

    Parameters
    ----------
    config : dict
        From `read_config`.
    path : str or pathlib.Path
        ``model.safetensors``.

    Returns
    -------
    StudentNetwork
        In float32, on the CPU, in evaluation mode.

    Raises
    ------
    InputError
        If the configuration describes no network, or the file isn't in safetensors format (a pickle, say), or
        holds other weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: a student's weights are a safetensors file. Files of other kinds, such as "
            "*.bin, *.ckpt and *.pt, are pickles, which can run code, and are never read."
        )
    with torch.device("meta"):
        network = _make_network(config)
    try:
        weights = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is not in safetensors format ({error}): it is damaged, or a pickle by another name, which could "
            "run code and is refused."
        ) from error
    try:
        network.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path} doesn't hold the weights of the network that {CONFIG_FILE} describes.") from error
    return network.eval().requires_grad_(False)


def _make_network(config):
    layers = [config["pooling"].get("num_layers")]
    layers += [config["encoder"].get("model", {}).get(name) for name in ("num_hidden_layers", "encoder_layers")]
    try:
        if max(number for number in layers if number is not None) > _MAX_LAYERS:
            raise InputError(f"{CONFIG_FILE} asks for more than {_MAX_LAYERS} layers.")
        encoder = load_speech_encoder(config["encoder"])
        pooling = make_pooling(**config["pooling"])
        model = EmotionModel(speech_pooling=pooling, embedding_size=config["embedding_size"])
        return StudentNetwork(encoder, model, LabelScale())
    except InputError:
        raise
    except Exception as error:  # whatever a made-up configuration leads to
        raise InputError(f"{CONFIG_FILE} describes no network that can be made ({error}): export it again.") from error


def _numbers(values, size):
    return len(values) == size and all(isinstance(value, int | float) for value in values)
