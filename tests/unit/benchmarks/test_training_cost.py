import re

import pytest
from transformers import BertConfig, HubertConfig

from benchmarks.training_cost import LARGE, ONCE, SYSTEMS, measure, report, total

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY_HUBERT = TINY | {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    sizes = {
        "base": HubertConfig(**TINY_HUBERT),
        "large": HubertConfig(**TINY_HUBERT, **LARGE),
        "bert": BertConfig(**TINY, vocab_size=100),
    }
    return measure(str(tmp_path_factory.mktemp("cost")), sizes, n_clips=2, repeats=1)


def test_all_that_is_needed_is_measured(measured):
    assert measured["stock"].keys() == measured["ours"].keys() == measured["by_length"].keys() == SYSTEMS.keys()
    assert measured["once"].keys() == {part for parts in ONCE.values() for part in parts}
    assert all(seconds > 0 for of in measured.values() for seconds in of.values())
    stock = measured["stock"]
    assert stock["teacher"] == pytest.approx(stock["hubert_large"] + stock["bert_base"])
    assert stock["ft"] < stock["cts"] == stock["ts"] < stock["ft"] + stock["teacher"]


def test_what_is_computed_once_counts_once():
    seconds = dict.fromkeys(SYSTEMS, 1.0)
    once = {part: 10.0 for parts in ONCE.values() for part in parts}
    costs = {"stock": {name: 5.0 for name in SYSTEMS}, "ours": seconds, "once": once}
    assert total(costs, ["cts"], n_epochs=50, n_seeds=3) == (750.0, 150.0 + 20.0)
    assert total(costs, SYSTEMS, n_epochs=50) == (7 * 250.0, 7 * 50.0 + 50.0)
    costs["by_length"] = seconds | {"ft": 0.5}
    assert total(costs, SYSTEMS, n_epochs=50, ours="by_length") == (7 * 250.0, 7 * 50.0 + 25.0)
    assert total(costs, ["teacher", "hubert_large"], n_epochs=1) == (10.0, 2.0 + 20.0)


def test_the_report_has_a_row_for_each_system_and_both_sums(measured):
    *rows, _, one, three = report(measured).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == [f"| {system}" for system in SYSTEMS]
    assert one.startswith("All of it, 1 seed(s): stock") and three.startswith("All of it, 3 seed(s): stock")
    ratios = [[float(ratio) for ratio in re.findall(r"ratio ([.\d]+)", line)] for line in (one, three)]
    assert all(once <= thrice for once, thrice in zip(*ratios, strict=True)) and len(ratios[0]) == 2
