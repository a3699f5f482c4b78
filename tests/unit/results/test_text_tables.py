from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.paper import Figure
from ser_ts_lobes.results.text_tables import ccc_table, fit_table
from tests.unit.results.outputs import LABEL, PREDICTION, write_report


def test_tables_say_what_metrics_say(tmp_path):
    report = write_report(tmp_path)
    table = ccc_table({"teacher": report}, "test1").splitlines()
    ccc = metrics.ccc(PREDICTION, LABEL)
    low, high = report["test"]["test1"]["activation"]["ccc_95"]
    assert table[0] == "| test1 | activation | valence | dominance |"
    assert table[2].startswith(f"| teacher | {ccc[0]:.3f} [{low:.3f}, {high:.3f}] | {ccc[1]:.3f} [")


def test_table_1_is_of_the_training_set_with_the_papers_below():
    rho = metrics.pearson(PREDICTION, LABEL)
    assert (
        fit_table(PREDICTION, LABEL).splitlines()[3] == f"| Pearson's ρ | {rho[0]:.3f} | {rho[1]:.3f} | {rho[2]:.3f} |"
    )
    values = {"release": "1.6", "sizes": {}, "system": "teacher", "statistic": "pearson", "values": (0.1, 0.2, 0.3)}
    paper = [Figure("1", "", split="train", **values), Figure("2", "9", split="test", **values)]
    *ours, theirs = fit_table(PREDICTION, LABEL, paper).splitlines()
    assert ours == fit_table(PREDICTION, LABEL).splitlines()
    assert theirs == "| Pearson's ρ, the paper's Table 1 | 0.100 | 0.200 | 0.300 |"
