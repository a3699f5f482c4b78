"""What a teacher with targets leaves for people to read: the paper's Table 1, plots, whether it knows where it errs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ser_ts_lobes.files import replacing
from ser_ts_lobes.results.plots import plot_predictions, plot_residuals
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.results.text_tables import fit_table
from ser_ts_lobes.training.residuals import keep_mask
from ser_ts_lobes.training.uncertainty import compare_rules

if TYPE_CHECKING:
    from ser_ts_lobes.results.paper import Figure
    from ser_ts_lobes.training.targets import TeacherTargets


def report_teacher(
    folder: str | Path,
    targets: "dict[str, TeacherTargets]",
    threshold: float = 2.0,
    paper: "Sequence[Figure]" = (),
    label_range: Sequence[float] | None = None,
) -> None:
    """Write the paper's Table 1 and the plots of a teacher; print the table, and whether it knows where it errs.

    The latter, how the spread of its predictions agrees with the residual rule on the training set, is also written; it
    is told where the targets have the spread.

    They go before the targets (`ser_ts_lobes.training.targets.save_targets`), which tell that all is there.

    Parameters
    ----------
    folder
        The teacher's run.
    targets
        By split, ``train`` among them; of speech that nobody rated nothing is to be reported.
    threshold
        Of the residual rule, in standard deviations (paper, section 4.2: 2); students choose their own.
    paper
        See `ser_ts_lobes.results.text_tables.fit_table`.
    label_range
        The ends of the label scale, which the plots show; None for what the data span.
    """
    run = RunFolder(folder)
    train = targets["train"]
    assert train.label is not None and train.residual is not None
    keep = keep_mask(train.residual, threshold)
    table = fit_table(train.prediction, train.label, paper)
    with replacing(run.table1_file) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    plot_residuals(run.residuals_plot, train.prediction, train.residual, keep, threshold, label_range)
    for split, target in targets.items():
        if target.label is not None:
            title = f"Teacher on {split}, {len(target.ids)} utterances"
            plot_predictions(run.predictions_plot(split), target.prediction, target.label, title, label_range)
    print(f"\nTable 1 for this corpus: the teacher on its {len(train.ids)} training utterances\n\n{table}\n")
    print(f"{1 - keep.mean():.1%} of them have a residual beyond {threshold:g} σ in some dimension.")
    if train.spread is None:
        run.uncertainty_file.unlink(missing_ok=True)  # an earlier teacher's
        return
    comparison = compare_rules(train.residual, train.spread, keep)
    with replacing(run.uncertainty_file) as temporary:
        report = {"spread": train.made_from["spread"], "residual_threshold": threshold, **comparison.for_json()}
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(comparison)
