import json

from transformers import HubertConfig

from benchmarks.scaling import report, work
from benchmarks.training_cost import RUN_OPTS, save_encoders
from tests.unit.benchmarks.test_training_cost import TINY_HUBERT


def test_a_process_measures_itself(tmp_path):
    encoder = save_encoders(tmp_path, {"base": HubertConfig(**TINY_HUBERT)})["base"]
    work(encoder, tmp_path / "out", 2, 1, RUN_OPTS)
    seconds = json.loads((tmp_path / "out" / "seconds.json").read_text())
    assert seconds["once"] > 0 and seconds["epoch"] > 0


def test_hours_are_those_of_a_corpus():
    seconds = {(1, 1): {"once": 36.0, "epoch": 7.2}, (2, 1): {"once": 18.0, "epoch": 4.8}}
    lines = report(seconds, n_clips=8).splitlines()
    assert lines[3] == "| 2 x 1 | 18.00 | 2.00 | 4.80 | 1.50 |"
    # (18 + 50 x 4.8) / 8 s a clip, of 34,280 and 267,905 clips.
    assert lines[-1] == "| 2 x 1 | 307 | 2,400 |"
