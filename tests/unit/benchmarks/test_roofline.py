import pytest
from transformers import HubertConfig

from benchmarks.roofline import measure, report
from tests.unit.benchmarks.test_training_cost import TINY_HUBERT


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return measure(str(tmp_path_factory.mktemp("roofline")), HubertConfig(**TINY_HUBERT), repeats=1)


def test_the_share_is_of_what_was_counted(measured):
    assert measured["rate"] == measured["flops"] / measured["step_s"]
    assert measured["share"] == measured["rate"] / measured["machine"]
    assert sum(measured["profile"].values()) == pytest.approx(1)


def test_operations_are_those_of_the_layer_that_learns_and_the_heads(measured):
    # Of 8 padded clips of 549 frames: the layer's products forward, and twice as many backward. Its attention, the GRU
    # over the valid frames and the heads are more, but not as much again.
    layer = 8 * 549 * 2 * (4 * 32 * 32 + 2 * 32 * 64)
    gru = 47.25 * 50 * 2 * 3 * 128 * (32 + 3 * 128)
    assert 3 * layer + 3 * 0.9 * gru < measured["flops"] < 3 * (3 * layer + gru) + 3 * 8 * 4 * 549 * 549 * 32


def test_the_report_names_the_slowest_operations(measured):
    lines = report(measured, n_rows=3).splitlines()
    assert lines[0].startswith("A step: ") and lines[2].endswith(f"{measured['share']:.0%}")
    assert [line.split(" | ")[0][2:] for line in lines[-3:]] == list(measured["profile"])[:3]
