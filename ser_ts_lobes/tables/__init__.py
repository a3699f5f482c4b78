"""Whole tables of the paper: which runs, in which order, and what they say together."""

from ser_ts_lobes.lazy import give_names

__getattr__, __dir__, __all__ = give_names(
    __name__,
    plan="Sweep make_plan",
    report="make_tables",
    runs="find_runs",
)
