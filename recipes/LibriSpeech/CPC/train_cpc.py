#!/usr/bin/env python3
"""Pretrain CPC on any folder of audio, such as LibriSpeech's train-clean-100.

To run this recipe::

    > python train_cpc.py hparams/cpc.yaml --data_folder /path/to/LibriSpeech/train-clean-100

The best network goes to ``results/cpc/<seed>/cpc.pt``, where the system ``cpc`` of the other recipes looks for it; the
same command resumes an interrupted run.
"""

import sys

import speechbrain as sb

from ser_ts_lobes.errors import plain_errors
from ser_ts_lobes.experiment import load_experiment, parse_arguments, start_experiment
from ser_ts_lobes.training.pretraining import CPCBrain, make_window_datasets, prepare_audio_folder

if __name__ == "__main__":
    with plain_errors():
        hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])
        settings = start_experiment(hparams_file, run_opts, overrides)
        sb.create_experiment_directory(settings["output_folder"])

        sb.utils.distributed.run_on_main(prepare_audio_folder, kwargs=settings["prepare_opts"])

        # Networks, which may have to be fetched, come after what can be wrong with less.
        hparams = load_experiment(hparams_file, run_opts, overrides)
        datasets = make_window_datasets(
            hparams["manifest_folder"], hparams["data_folder"], hparams["window_samples"], hparams["seed"]
        )

        brain = CPCBrain(hparams, run_opts)
        brain.train(datasets)
        brain.export()
