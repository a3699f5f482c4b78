import copy

import numpy as np
import pytest
from PIL import Image

from ser_ts_lobes import DIMENSIONS
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


def drawn(monkeypatch, draw, *arguments, **options):
    """Draw, and return the figure."""
    figures = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: figures.append(figure) or path.touch()
    )
    draw("plot.png", *arguments, **options)
    return figures[0]


def bars(axis):
    """Give the values of a panel of error bars, and the ends of these."""
    [container] = axis.containers
    value, [segments] = container.lines[0].get_xdata(), container.lines[2]
    return np.asarray(value, float), [segment[:, 0].tolist() for segment in segments.get_segments()]


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """Two rows of known differences, and the row that they are from."""
    monkeypatch.chdir(tmp_path)
    report = write_report(tmp_path)
    rows = {"ft": report, "ts": copy.deepcopy(report), "cts": copy.deepcopy(report)}
    for row, difference in (("ts", 0.01), ("cts", -0.02)):
        for score in (rows[row]["test"]["test1"][name] for name in DIMENSIONS):
            score |= {"difference": difference, "difference_95": [difference - 0.01, difference + 0.02]}
    return rows


def test_differences_are_shown_with_their_own_intervals(compared, monkeypatch):
    figure = drawn(monkeypatch, plot_comparison, compared, "test1", "title", "ft")
    assert len(figure.axes) == 6
    for axis in figure.axes[3:]:
        value, ends = bars(axis)
        np.testing.assert_allclose(value, [0.01, -0.02])
        np.testing.assert_allclose(ends, [[0, 0.03], [-0.03, 0]], atol=1e-12)
        assert [int(place) for place in axis.containers[0].lines[0].get_ydata()] == [1, 0]  # of ft there is none
        assert "ft" in axis.get_xlabel()
        assert -0.05 < axis.get_xlim()[0] < -0.03 and 0.03 < axis.get_xlim()[1] < 0.05
    assert [text.get_text() for text in figure.axes[3].get_yticklabels()] == ["ft", "ts", "cts"]


def test_the_axis_is_as_long_as_the_intervals(compared, monkeypatch):
    for axis in drawn(monkeypatch, plot_comparison, compared, "test1", "title", "ft").axes[:3]:
        scores = [compared["ft"]["test"]["test1"][name] for name in DIMENSIONS]
        low, high = min(score["ccc_95"][0] for score in scores), max(score["ccc_95"][1] for score in scores)
        assert low - 0.05 < axis.get_xlim()[0] < low and high < axis.get_xlim()[1] < high + 0.05


def test_without_a_row_to_compare_with_there_are_no_differences(compared, monkeypatch):
    assert len(drawn(monkeypatch, plot_comparison, compared, "test1", "title").axes) == 3
    del compared["ft"]
    assert len(drawn(monkeypatch, plot_comparison, compared, "test1", "title", "ft").axes) == 3


def test_a_teachers_plots_show_the_whole_label_scale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keep = np.arange(60) > 5
    residual = drawn(monkeypatch, plot_residuals, PREDICTION, PREDICTION - LABEL, keep, 2.0, (-1, 9))
    predictions = drawn(monkeypatch, plot_predictions, PREDICTION, LABEL, "title", (-1, 9))
    assert all(axis.get_xlim() == (-1, 9) for axis in [*residual.axes, *predictions.axes])
    assert all(axis.get_ylim() == (-1, 9) for axis in predictions.axes)
    beyond = drawn(monkeypatch, plot_predictions, PREDICTION, LABEL, "title", (3, 4))
    for j, axis in enumerate(beyond.axes):  # nothing is cut off
        both = np.concatenate([PREDICTION[:, j], LABEL[:, j]])
        assert axis.get_xlim() == (both.min(), both.max())


def test_what_is_left_out_inside_a_band_has_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure = drawn(monkeypatch, plot_residuals, PREDICTION, PREDICTION - LABEL, np.arange(60) > 5, 2.0)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["kept", "left out, here or in another dimension"]


@pytest.mark.parametrize("draw", [draw_residuals, draw_predictions, draw_comparison, draw_sweep])
def test_plots_are_drawn(tmp_path, draw):
    draw(tmp_path / "plot.png", write_report(tmp_path))
    image = np.asarray(Image.open(tmp_path / "plot.png").convert("L"))
    assert image.shape[1] > 1000 and 0.001 < (image < 200).mean() < 0.5
