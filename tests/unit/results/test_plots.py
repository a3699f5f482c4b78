import copy

import numpy as np
import pytest
from PIL import Image

from ser_ts_lobes.results.plots import plot_comparison, plot_predictions, plot_residuals, plot_sweep
from tests.unit.results.outputs import LABEL, PREDICTION, write_report


def draw_residuals(path, report):
    plot_residuals(path, PREDICTION, PREDICTION - LABEL, np.arange(60) > 5, 2.0)


def draw_predictions(path, report):
    plot_predictions(path, PREDICTION, LABEL, "title")


def draw_comparison(path, report):
    tiny = copy.deepcopy(report)
    tiny["test"]["test1"]["valence"]["ccc_95"] = [float("nan")] * 2
    plot_comparison(path, {"a": report, "b": tiny}, "test1", "title")


def draw_sweep(path, report):
    plot_sweep(path, {"ts": {"3": report, "30": report}, "cts": {"30": report}}, "test1", "title", "ts_weight")


@pytest.mark.parametrize("draw", [draw_residuals, draw_predictions, draw_comparison, draw_sweep])
def test_plots_are_drawn(tmp_path, draw):
    draw(tmp_path / "plot.png", write_report(tmp_path))
    image = np.asarray(Image.open(tmp_path / "plot.png").convert("L"))
    assert image.shape[1] > 1000 and 0.001 < (image < 200).mean() < 0.5
