"""What a Brain hands over of a test set, made up."""

from types import SimpleNamespace

import numpy as np

from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.brains import Outputs

RANDOM = np.random.default_rng(0)
LABEL = RANDOM.uniform(1, 7, (60, 3))
PREDICTION = 0.8 * LABEL + RANDOM.normal(0, 0.5, LABEL.shape)
OUTPUTS = {"test1": Outputs([f"u{i:02d}" for i in range(60)], np.zeros((60, 4), np.float32), PREDICTION, LABEL)}


def make_manifests(n_speakers):
    """Make what stands for the manifests of the test set."""
    utterances = {id: {"spk_id": f"s{i % n_speakers}"} for i, id in enumerate(OUTPUTS["test1"].ids)}
    return {
        "test1": SimpleNamespace(utterances=utterances, labelled=True, fingerprints=lambda reads: {"test1": "ab12"})
    }


def write_report(folder, n_speakers=4):
    """Write the results into a run's folder, and return what is reported of them."""
    RunFolder(folder).write(OUTPUTS, make_manifests(n_speakers), reads=False, system="cts", seed=3)
    return RunFolder(folder).report()
