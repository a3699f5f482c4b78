#!/usr/bin/env python3
"""Write down what a trained teacher knows of each utterance, on MSP-Podcast.

To run this recipe, with the options that the teacher was trained with::

    > python precompute_targets.py hparams/teacher.yaml --data_folder /path/to/MSP-Podcast

Into ``results/teacher/<seed>/targets`` go the teacher's embedding, prediction and residual of each utterance, for
the students ``ts`` and ``cts``; the paper's Table 1 is printed and written to ``table1.md``; ``residuals.png`` and
``predictions_<split>.png`` show where the teacher can be trusted.
With ``--unrated_manifest <CSV>`` it also says what it knows of transcribed speech that nobody rated, and
``uncertainty.json`` tells whether it knows where it errs.
"""

import sys
from pathlib import Path

import speechbrain as sb
from msp_podcast_prepare import prepare_msp_podcast

from ser_ts_lobes.errors import plain_errors
from ser_ts_lobes.experiment import load_experiment, parse_arguments, start_experiment
from ser_ts_lobes.provenance import refuse_untrained
from ser_ts_lobes.results.paper import figures_of_run
from ser_ts_lobes.training.brains import TeacherBrain
from ser_ts_lobes.training.datasets import labels_beside, load_manifests, make_datasets
from ser_ts_lobes.training.fitting import learn_from_training_set
from ser_ts_lobes.training.targets import save_targets
from ser_ts_lobes.training.teacher_report import report_teacher

if __name__ == "__main__":
    with plain_errors():
        hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])
        settings = start_experiment(hparams_file, run_opts, overrides, trains=False)
        refuse_untrained(settings)

        sb.utils.distributed.run_on_main(prepare_msp_podcast, kwargs=settings["prepare_opts"])
        manifests = load_manifests(
            settings["manifest_folder"],
            settings["data_folder"],
            needs_text=True,
            unrated=settings["unrated_manifest"],
            **labels_beside(settings),
        )

        # Networks, which may have to be fetched, come after what can be wrong with less.
        hparams = load_experiment(hparams_file, run_opts, overrides, trains=False)
        learn_from_training_set(manifests["train"], hparams, run_opts)
        datasets = make_datasets(manifests, hparams, run_opts)

        targets = TeacherBrain(hparams, run_opts, manifests).make_targets(datasets)
        if sb.utils.distributed.if_main_process():
            paper = figures_of_run(Path(__file__).parent, hparams, manifests)
            label_range = manifests["train"].label_range
            report_teacher(hparams["output_folder"], targets, paper=paper, label_range=label_range)
            save_targets(hparams["output_folder"], targets)  # last: they tell that all is there
