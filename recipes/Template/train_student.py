#!/usr/bin/env python3
"""Train a system that only hears, with or without a teacher, on recordings of one's own.

To run this recipe::

    > python train_student.py hparams/cts.yaml --data_folder /path/to/recordings

The best validation checkpoint, test predictions and metrics go to ``results/<system>/<seed>``; the same command
resumes an interrupted run. The students ``ts`` and ``cts`` need the teacher's targets first:
``train_teacher.py hparams/teacher.yaml``, then ``precompute_targets.py hparams/teacher.yaml``.
"""

import sys

import speechbrain as sb
from template_prepare import prepare_template

from ser_ts_lobes.errors import plain_errors
from ser_ts_lobes.experiment import load_experiment, parse_arguments, start_experiment
from ser_ts_lobes.training.brains import StudentBrain
from ser_ts_lobes.training.datasets import labels_beside, load_manifests, load_teacher, make_datasets
from ser_ts_lobes.training.fitting import learn_from_training_set

if __name__ == "__main__":
    with plain_errors():
        hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])
        settings = start_experiment(hparams_file, run_opts, overrides)
        sb.create_experiment_directory(settings["output_folder"])

        sb.utils.distributed.run_on_main(prepare_template, kwargs=settings["prepare_opts"])
        manifests = load_manifests(
            settings["manifest_folder"],
            settings["data_folder"],
            unrated=settings.get("unrated_manifest"),
            **labels_beside(settings),
        )
        targets = load_teacher(manifests, settings)

        # Networks, which may have to be fetched, come after what can be wrong with less.
        hparams = load_experiment(hparams_file, run_opts, overrides)
        learn_from_training_set(manifests["train"], hparams, run_opts)
        datasets = make_datasets(manifests, hparams, run_opts, targets)

        brain = StudentBrain(hparams, run_opts, manifests, targets)
        brain.train(datasets)
        brain.test(datasets)
