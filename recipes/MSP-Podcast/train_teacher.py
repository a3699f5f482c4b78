#!/usr/bin/env python3
"""Train a system that reads the transcript: the teacher, or text alone, on MSP-Podcast.

To run this recipe::

    > python train_teacher.py hparams/teacher.yaml --data_folder /path/to/MSP-Podcast

The best validation checkpoint, test predictions and metrics go to ``results/<system>/<seed>``; the same command
resumes an interrupted run. Next: ``python precompute_targets.py hparams/teacher.yaml`` with the same options.
"""

import sys

import speechbrain as sb
from msp_podcast_prepare import prepare_msp_podcast

from ser_ts_lobes.errors import plain_errors
from ser_ts_lobes.experiment import load_experiment, parse_arguments, start_experiment
from ser_ts_lobes.training.brains import TeacherBrain
from ser_ts_lobes.training.datasets import labels_beside, load_manifests, make_datasets
from ser_ts_lobes.training.fitting import learn_from_training_set

if __name__ == "__main__":
    with plain_errors():
        hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])
        settings = start_experiment(hparams_file, run_opts, overrides)
        sb.create_experiment_directory(settings["output_folder"])

        sb.utils.distributed.run_on_main(prepare_msp_podcast, kwargs=settings["prepare_opts"])
        manifests = load_manifests(
            settings["manifest_folder"],
            settings["data_folder"],
            needs_text=True,
            **labels_beside(settings),
        )

        # Networks, which may have to be fetched, come after what can be wrong with less.
        hparams = load_experiment(hparams_file, run_opts, overrides)
        learn_from_training_set(manifests["train"], hparams, run_opts)
        datasets = make_datasets(manifests, hparams, run_opts)

        brain = TeacherBrain(hparams, run_opts, manifests)
        brain.train(datasets)
        brain.test(datasets)
