"""What a run leaves: its folder, metrics, tables and plots."""

from ser_ts_lobes.lazy import give_names

__getattr__, __dir__, __all__ = give_names(
    __name__,
    intervals="compare estimate holm",
    metrics="bootstrap_ci ccc evaluate paired_bootstrap pearson rmse",
    run_folder="RunFolder",
)
