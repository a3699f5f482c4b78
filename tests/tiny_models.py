"""Small random configurations of the real classes, saved as a hub download would be."""

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DebertaV2Config,
    DebertaV2Model,
    DebertaV2Tokenizer,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
    WhisperTokenizer,
)

from ser_ts_lobes.lobes.cpc import CPC, save_cpc
from ser_ts_lobes.lobes.listener import Listener, save_listener
from ser_ts_lobes.lobes.pieces import Pieces
from ser_ts_lobes.lobes.reader import make_reader
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder

_SSL_CLASSES = {
    "hubert": (HubertConfig, HubertModel),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "wavlm": (WavLMConfig, WavLMModel),
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TINY_WORDS = "it was good bad day the a we had and not so very awful lovely".split()


def save_tiny_ssl(folder, kind="hubert", style="base"):
    """Save a HuBERT, wav2vec 2.0 or WavLM model in the style of its base or its large version."""
    torch.manual_seed(0)
    large = style == "large"
    config_class, model_class = _SSL_CLASSES[kind]
    config = config_class(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large,
        conv_bias=large,
    )
    model_class(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


def save_tiny_whisper(folder):
    """Save a Whisper model whose window is 10 s."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=500,
    )
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=10).save_pretrained(folder)
    return str(folder)


def save_tiny_recogniser(folder, vocab_size=30, seed=0):
    """Save a Whisper with a window of 1 s that says up to 12 tokens, without OpenAI's generation settings."""
    torch.manual_seed(seed)
    tokens = [*LETTERS, "Ġ", "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    end, start = tokens.index("<|endoftext|>"), tokens.index("<|startoftranscript|>")
    config = WhisperConfig(
        vocab_size=vocab_size,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=50,
        max_target_positions=14,
        decoder_start_token_id=start,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=1.0,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder)
    tokenizer = WhisperTokenizer(vocab={token: id for id, token in enumerate(tokens)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": tokens[start:]})
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_listener(folder, source):
    """Save an untrained listener on top of a speech encoder."""
    torch.manual_seed(0)
    speech = load_speech_encoder(source)
    save_listener(folder, speech, Listener(speech.output_size, hidden_size=16, num_layers=2, num_heads=2))
    return str(folder)


def save_tiny_reader(folder, source, text_source):
    """Save an untrained listener on top of a speech encoder, whose words a text encoder reads."""
    torch.manual_seed(0)
    speech = load_speech_encoder(source)
    listener = Listener(speech.output_size, hidden_size=16, num_layers=2, num_heads=2)
    pieces = Pieces.fit([" ".join(TINY_WORDS), "good day it was", "not so bad"], n_pieces=40)
    reader = make_reader(torch.nn.Linear(16, len(pieces)), pieces, TextEncoder(text_source))
    save_listener(folder, speech, listener, reader)
    return str(folder)


def save_tiny_bert(folder):
    """Save a BERT model with a tokenizer of a few words."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(TINY_WORDS) + 5,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TINY_WORDS])}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    return str(folder)


def save_tiny_deberta(folder, **changes):
    """Save a DeBERTa as version 3 has it, with relative positions in buckets and a tokenizer of a few words."""
    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    config = DebertaV2Config(
        vocab_size=len(TINY_WORDS) + len(special),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        relative_attention=True,
        position_buckets=4,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        **changes,
    )
    DebertaV2Model(config).save_pretrained(folder)
    vocabulary = [(token, 0.0) for token in special] + [(f"\u2581{word}", -1.0) for word in TINY_WORDS]
    DebertaV2Tokenizer(vocab=vocabulary).save_pretrained(folder)
    return str(folder)


def save_tiny_cpc(path):
    """Save a Modified CPC, whose context is an LSTM."""
    torch.manual_seed(0)
    save_cpc(CPC(channels=16, context_size=16), path)
    return str(path)


def save_word_vectors(path, size=300):
    """Save random vectors of a few words as GloVe's are."""
    torch.manual_seed(0)
    lines = [" ".join([word, *(f"{value:.5f}" for value in torch.randn(size).tolist())]) for word in TINY_WORDS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
