"""Fingerprints of frozen parts: what is kept under them must be computed anew when a setting changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from tokenizers import ByteLevelBPETokenizer
from transformers import PhobertTokenizer, RobertaConfig, RobertaModel, RobertaTokenizer

from ser_ts_lobes.lobes.cpc import CPCEncoder
from ser_ts_lobes.lobes.descriptors import LowLevelDescriptors, ShortTermStatistics
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.lobes.words import WordEncoder
from ser_ts_lobes.training.features import FrozenFeatures
from tests.tiny_models import save_tiny_bert, save_tiny_cpc, save_tiny_ssl, save_tiny_whisper, save_word_vectors

TRANSCRIPT = "It was a GOOD day, [SEP] so it was not bad " + "and so very lovely " * 10


def save_roberta(folder, tokenizer):
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_bpe(folder):
    """Save a RoBERTa model with a tokenizer of pairs that were merged."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([TRANSCRIPT], vocab_size=280, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    trained = json.loads(bpe.to_str())["model"]
    return save_roberta(folder, RobertaTokenizer(trained["vocab"], [tuple(pair) for pair in trained["merges"]]))


def save_slow(folder):
    """Save a RoBERTa model whose tokenizer is written in Python."""
    (folder / "vocab.txt").write_text("it 9\nwas 8\ngood 7\nday 6\nnot 5\n")
    (folder / "bpe.codes").write_text("i t</w> 10\nn o 5\nno t</w> 3\n")
    return save_roberta(folder, PhobertTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes")))


def word_encoder(folder):
    encoder = WordEncoder(save_word_vectors(folder / "vectors.txt", size=3), size=3)
    encoder.fit((folder / "transcripts.txt").read_text().splitlines())
    return encoder


def save_words(folder):
    (folder / "transcripts.txt").write_text("it was good\nthe day\n")


# How a folder is filled, and how the encoder is loaded from it.
ENCODERS = {
    "hubert": (save_tiny_ssl, load_speech_encoder),
    "whisper": (save_tiny_whisper, load_speech_encoder),
    "bert": (save_tiny_bert, TextEncoder),
    "bpe": (save_bpe, TextEncoder),
    "slow": (save_slow, TextEncoder),
    "words": (save_words, word_encoder),
    "cpc": (lambda folder: save_tiny_cpc(folder / "cpc.pt"), lambda folder: CPCEncoder(folder / "cpc.pt")),
    "descriptors": (lambda folder: None, lambda folder: LowLevelDescriptors()),
    "statistics": (lambda folder: None, lambda folder: ShortTermStatistics()),
}


def edit_json(name, **values):
    def edit(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | values))

    return edit


def edit_tokenizer(change):
    def edit(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return edit


def swap_words(tokenizer):
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]


def edit_text(name, old, new):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


SETTINGS = [
    ("hubert", "do_normalize", edit_json("preprocessor_config.json", do_normalize=False)),
    ("hubert", "activation", edit_json("config.json", hidden_act="relu")),
    ("whisper", "n_fft", edit_json("preprocessor_config.json", n_fft=512)),
    ("whisper", "hop_length", edit_json("preprocessor_config.json", hop_length=200)),
    ("whisper", "mel filters", edit_json("preprocessor_config.json", sampling_rate=22050)),
    ("bert", "lower case", edit_json("tokenizer_config.json", do_lower_case=False)),
    ("bert", "vocabulary", edit_tokenizer(swap_words)),
    ("bert", "side that is cut", edit_json("tokenizer_config.json", truncation_side="left")),
    ("bert", "text of special tokens", edit_json("tokenizer_config.json", split_special_tokens=True)),
    ("bert", "which token ends", edit_json("tokenizer_config.json", sep_token="[MASK]")),
    ("bpe", "merges", edit_tokenizer(lambda tokenizer: tokenizer["model"]["merges"].pop())),
    ("bpe", "space in front", edit_json("tokenizer_config.json", add_prefix_space=True)),
    ("slow", "merges", edit_text("bpe.codes", "no t</w> 3\n", "")),
    ("slow", "vocabulary", edit_text("vocab.txt", "it 9\nwas 8", "was 9\nit 8")),
]


def load(kind, folder):
    return ENCODERS[kind][1](folder)


def keep_features(cache_folder, encoder):
    """Give the kept features of one utterance; and what the encoder says of it today."""
    key = "text" if hasattr(encoder, "tokenize") else "speech"
    torch.manual_seed(0)
    value = encoder.tokenize(TRANSCRIPT) if key == "text" else 0.1 * torch.randn(9000) + 0.05
    data = DynamicItemDataset({"utt": {"duration": 1.0, key: value}}, [], ["id", key])
    kept = FrozenFeatures.compute(
        cache_folder, encoder, data, key, lambda _: ["the same"], dtype="float32", progressbar=False
    )
    return kept["utt"], encoder.frozen_forward(value.unsqueeze(0), torch.ones(1))[0][0]


@pytest.mark.parametrize(
    ("kind", "change"),
    [(kind, edit) for kind, _, edit in SETTINGS],
    ids=[f"{kind}: {name}" for kind, name, _ in SETTINGS],
)
def test_another_setting_makes_new_features(tmp_path, kind, change):
    folder, cache = tmp_path / "encoder", tmp_path / "features"
    folder.mkdir()
    ENCODERS[kind][0](folder)
    encoder = load(kind, folder)
    before, _ = keep_features(cache, encoder)
    change(folder)
    changed = load(kind, folder)
    assert changed.frozen_fingerprint() != encoder.frozen_fingerprint()
    after, expected = keep_features(cache, changed)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    assert after.shape != before.shape or not after.allclose(before, rtol=0, atol=1e-4)  # so the setting matters


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("descriptors", "FRAME_SIZE_S", 0.064),
        ("descriptors", "FRAME_STEP_S", 0.010),
        ("statistics", "FRAME_SIZE", 320),
        ("statistics", "FRAME_STEP", 200),
    ],
)
def test_other_frames_of_descriptors_make_new_features(tmp_path, monkeypatch, kind, name, value):
    encoder = load(kind, tmp_path)
    before, _ = keep_features(tmp_path, encoder)
    monkeypatch.setattr(type(encoder), name, value)
    after, expected = keep_features(tmp_path, load(kind, tmp_path))
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    assert after.shape != before.shape or not after.allclose(before)


def test_another_length_at_which_transcripts_are_cut_makes_new_features(tmp_path, tiny_bert):
    encoder = TextEncoder(tiny_bert)
    before, _ = keep_features(tmp_path, encoder)
    encoder.max_tokens = 20
    after, expected = keep_features(tmp_path, encoder)
    assert len(before) == 40 and len(after) == 20
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)


def test_what_makes_no_difference_makes_no_new_features(tmp_path):
    encoder = TextEncoder(save_tiny_bert(tmp_path))
    encoder.tokenize(TRANSCRIPT)
    encoder.tokenizer.save_pretrained(tmp_path)  # with the length at which the latest transcript was cut
    other = TextEncoder(str(tmp_path))
    assert other.tokenizer.backend_tokenizer.truncation
    other.model.set_attn_implementation("eager")
    assert other.frozen_fingerprint() == encoder.frozen_fingerprint()


def print_fingerprints(folder):
    print(json.dumps({kind: load(kind, Path(folder) / kind).frozen_fingerprint() for kind in ENCODERS}))


def test_one_encoder_has_one_fingerprint_in_any_process_and_folder(tmp_path):
    for kind, (save, _) in ENCODERS.items():
        (tmp_path / "first" / kind).mkdir(parents=True)
        save(tmp_path / "first" / kind)
    here = {kind: load(kind, tmp_path / "first" / kind).frozen_fingerprint() for kind in ENCODERS}
    (tmp_path / "first").rename(tmp_path / "second")
    program = (
        "import sys; from tests.unit.lobes.test_encoder import print_fingerprints; print_fingerprints(sys.argv[1])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "second")],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert json.loads(output.splitlines()[-1]) == here
    assert len(set(here.values())) == len(ENCODERS)
