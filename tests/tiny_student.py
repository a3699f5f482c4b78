"""A small untrained student, saved as `ser-ts export` would."""

import json
from pathlib import Path

import numpy as np
import torch

from ser_ts_lobes.lobes.emotion import EmotionModel, LabelScale
from ser_ts_lobes.lobes.pooling import make_pooling
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.student.config import FORMAT
from ser_ts_lobes.student.network import StudentNetwork, describe_network, save_weights

LABELS = np.random.default_rng(0).uniform(1, 7, (50, 3))


def make_tiny_network(encoder_source, pooling="gru", layers="last"):
    """Make a network of random weights."""
    torch.manual_seed(0)
    encoder = load_speech_encoder(encoder_source, layers=layers)
    model = EmotionModel(make_pooling(pooling, input_size=encoder.output_size, hidden_size=16, num_layers=2))
    label_scale = LabelScale()
    label_scale.fit(LABELS)
    return StudentNetwork(encoder, model, label_scale).eval()


def save_tiny_student(folder, encoder_source, pooling_kind="gru", **changes):
    """Save the two files that the safe path reads; return the folder as str."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    network = make_tiny_network(encoder_source, pooling_kind)
    config = {
        "format": FORMAT,
        "system": "ft",
        "corpus": "tones",
        **describe_network(network),
        "label_range": [1.0, 7.0],
        "label_mean": network.label_scale.mean.tolist(),
        "label_std": network.label_scale.std.tolist(),
        "label_histogram": {"valence_edges": [1, 4, 7], "activation_edges": [1, 4, 7], "counts": [[9, 11], [14, 16]]},
        "test": {},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_weights(network, folder / "model.safetensors")
    return str(folder)


def change(folder, *keys, value):
    """Change one value deep inside config.json."""
    config = json.loads((folder / "config.json").read_text())
    part = config
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def scores(valence):
    """Give the scores of a test set in config.json."""
    return {"activation": {"ccc": 0.5}, "valence": valence, "dominance": {"ccc": None}}
