"""Network blocks: encoders, pooling and the emotion model."""

from ser_ts_lobes.lazy import give_names

__getattr__, __dir__, __all__ = give_names(
    __name__,
    baselines="ChunkAttention ChunkNetwork SpeechTextLSTM",
    contrastive="FuturePrediction info_nce",
    cpc="CPC CPCEncoder load_cpc save_cpc",
    descriptors="LowLevelDescriptors ShortTermStatistics",
    emotion="EmotionModel EmotionOutput LabelScale",
    encoder="Encoder",
    gru="last_states",
    listener="Listener save_listener",
    parallel="compute_frozen",
    pooling="AttentionPooling GRUPooling TransformerPooling",
    reader="Reader make_reader",
    speech="ListenerEncoder SpeechEncoder WhisperEncoder load_speech_encoder",
    text="TextEncoder",
    words="WordEncoder",
)
