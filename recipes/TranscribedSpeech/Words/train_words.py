#!/usr/bin/env python3
"""Teach a listener what is said, on transcribed speech that nobody rated.

To run this recipe::

    > python train_words.py hparams/words.yaml --sources "[/path/to/folder, /path/to/train.csv]"

The best listener goes to ``results/words/<seed>/listener``, which the systems of the other recipes take as their
``--speech_source``; the same command resumes an interrupted run.
"""

import sys

import speechbrain as sb

from ser_ts_lobes.data.transcribed import prepare_transcribed_speech
from ser_ts_lobes.errors import plain_errors
from ser_ts_lobes.experiment import load_experiment, parse_arguments, start_experiment
from ser_ts_lobes.training.lexical import LexicalBrain, make_lexical_datasets

if __name__ == "__main__":
    with plain_errors():
        hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])
        settings = start_experiment(hparams_file, run_opts, overrides)
        sb.create_experiment_directory(settings["output_folder"])

        sb.utils.distributed.run_on_main(prepare_transcribed_speech, kwargs=settings["prepare_opts"])

        # Networks, which may have to be fetched, come after what can be wrong with less.
        hparams = load_experiment(hparams_file, run_opts, overrides)
        datasets, pieces = make_lexical_datasets(hparams, run_opts)

        brain = LexicalBrain(hparams, run_opts, datasets, pieces)
        brain.train()
        brain.export()
