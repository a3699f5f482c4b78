"""Public models of emotion, small and of random weights, saved as their makers published theirs."""

import json
from pathlib import Path

import safetensors.torch
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

ORDER = {"0": "arousal", "1": "dominance", "2": "valence"}
CARD = "---\nlanguage: en\ndatasets:\n- some-corpus\nlicense: {}\n---\n# A model\n"
MEAN, STD = -8.278621631819787e-05, 0.08485510250851999  # of the published WavLM


def make_wav2vec2():
    """Make wav2vec 2.0, large style, with a head on the mean; say what config.json has."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    model = torch.nn.Module()
    model.wav2vec2 = Wav2Vec2Model(Wav2Vec2Config(**sizes))
    model.classifier = torch.nn.Module()
    model.classifier.dense, model.classifier.out_proj = torch.nn.Linear(32, 32), torch.nn.Linear(32, 3)
    config = {"architectures": ["Wav2Vec2ForSpeechClassification"], "model_type": "wav2vec2", "pooling_mode": "mean"}
    return model.eval(), {**config, **sizes, "vocab_size": None, "id2label": ORDER}


def make_wavlm():
    """Make WavLM, of which only the convolutions are large, with a head on statistics; say what config.json has."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    large = {"intermediate_size": 128, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
    model = torch.nn.Module()
    model.ssl_model = WavLMModel(WavLMConfig(**sizes, **large))
    model.pool_model = torch.nn.Module()
    model.pool_model.sap_linear = torch.nn.Linear(32, 32)
    model.pool_model.attention = torch.nn.Parameter(torch.randn(32, 1))
    model.ser_model = torch.nn.Module()
    model.ser_model.fc = torch.nn.ModuleList(
        torch.nn.Sequential(torch.nn.Linear(n, 32), torch.nn.LayerNorm(32), torch.nn.ReLU(), torch.nn.Dropout(0.5))
        for n in (64, 32)
    )
    model.ser_model.out = torch.nn.Sequential(torch.nn.Linear(32, 3))
    config = {
        "architectures": ["SERModel"],
        "model_type": "ser",
        "auto_map": {"AutoConfig": "pipeline_utils.SERConfig"},
    }
    head = {"classifier_hidden_layers": 2, "classifier_dropout_prob": 0.5, "num_classes": 3}
    rest = {"ssl_type": "microsoft/wavlm-large", "mean": MEAN, "std": STD, "maxlen": 192000, "sampling_rate": 16000}
    return model.eval(), {**config, **sizes, **head, **rest}


MAKERS = {"wav2vec2": (make_wav2vec2, "cc-by-nc-sa-4.0"), "wavlm": (make_wavlm, "mit")}


def save_tiny_public(folder, kind, pickled=False):
    """Save one, with a card; pickled with the names that earlier versions of PyTorch gave. Return model and folder."""
    folder = Path(folder)
    make, licence = MAKERS[kind]
    model, config = make()
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    assert any(name.endswith("masked_spec_embed") for name in weights)  # as the published have it
    if pickled:
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            weights = {name.replace(f"parametrizations.weight.{new}", old): w for name, w in weights.items()}
        assert any(name.endswith("weight_g") for name in weights)
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": True, "sampling_rate": 16000} if kind == "wav2vec2" else {"mean": 10}), "utf-8"
    )
    (folder / "README.md").write_text(CARD.format(licence), encoding="utf-8")
    return model, str(folder)
