"""Where the cards of published students say that `EmotionRegressor` is; the class is in `ser_ts_lobes.student`."""

from ser_ts_lobes.student.inference import EmotionRegressor

__all__ = ["EmotionRegressor"]
