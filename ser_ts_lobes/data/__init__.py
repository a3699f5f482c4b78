"""Corpora as the rest of the package sees them: manifests, audio, transcripts."""

from ser_ts_lobes.lazy import give_names

__getattr__, __dir__, __all__ = give_names(
    __name__,
    audio="AudioInfo inspect_audio read_audio read_header stream_audio",
    manifests="Manifest Utterance find_manifests read_manifest read_unrated write_manifests",
    preparation="list_utterances",
    ratings="read_ratings soft_labels write_ratings",
    transcription="transcribe",
)
