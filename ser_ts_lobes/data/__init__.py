"""Corpora as the rest of the package sees them: manifests, audio, transcripts."""
