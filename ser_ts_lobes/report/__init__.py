"""One page on what systems, ours or anybody's, predict: scores with intervals, tests, figures (`ser-ts report`)."""

from ser_ts_lobes.lazy import give_names

__getattr__, __dir__, __all__ = give_names(
    __name__,
    page="make_report",
    sources="read_test_sets",
)
