"""SpeechBrain lobes and recipes for dimensional speech emotion recognition.

The package implements *Representation Learning Through Cross-Modal Conditional
Teacher-Student Training for Speech Emotion Recognition* (ICASSP 2022).
"""

__version__ = "0.2.0"

#: The three emotion dimensions, in the order of every label, prediction and metric array.
DIMENSIONS = ("activation", "valence", "dominance")

#: Speaker id of utterances whose speaker isn't known: they don't share a speaker.
UNKNOWN_SPEAKER = "Unknown"
