"""Tables of runs that are written by hand, against numbers computed here."""

import csv
import json
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ser_ts_lobes.results.run_folder
from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.cli import main
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.seals import seal
from ser_ts_lobes.tables.plan import Sweep
from ser_ts_lobes.tables.report import make_tables
from ser_ts_lobes.tables.runs import find_runs, summarise
from ser_ts_lobes.training.brains import Outputs
from tests.integration.programs import ROOT

MSP, IEMOCAP = ROOT / "recipes" / "MSP-Podcast", ROOT / "recipes" / "IEMOCAP"
N = 40
LOG = """\
2026-01-01 10:00:00,000 - speechbrain.core - INFO - Beginning experiment!
absl-py==1.0
2026-01-01 10:30:00,000 - speechbrain.utils.checkpoints - INFO - Saved an end-of-epoch checkpoint
2026-01-01 20:00:00,500 - speechbrain.core - INFO - Beginning experiment!
2026-01-01 20:15:00,500 - speechbrain.utils.checkpoints - INFO - Loading a checkpoint
"""


def fingerprints_of(name, fold):
    return lambda reads: {name: f"{name} of fold {fold}"}


def write_run(
    results, system, seed, fold=None, key=None, value=None, n_speakers=20, split="test1", sizes=None, **settings
):
    """Leave what a run leaves; how well it predicts depends on the system, the fold and the seed."""
    name = "/".join(str(part) for part in (key, value, fold and f"fold{fold}", seed) if part)
    folder = results / system / name
    folder.mkdir(parents=True)
    label = np.random.default_rng(fold or 0).uniform(1, 7, (N, 3))
    noise = {"ft": 2.0, "ts": 1.6, "cts": 1.2, "teacher": 0.4}[system]
    random = np.random.default_rng([seed, fold or 0, len(system), round(10 * float(value or 0))])
    outputs = {split: Outputs([f"u{i:02d}" for i in range(N)], None, label + noise * random.normal(size=(N, 3)), label)}
    utterances = {id: {"spk_id": f"s{i % n_speakers}"} for i, id in enumerate(outputs[split].ids)}
    sets = {split: utterances} | {name: range(size) for name, size in (sizes or {}).items()}  # it learnt from those
    manifests = {
        name: SimpleNamespace(utterances=members, labelled=True, fingerprints=fingerprints_of(name, fold))
        for name, members in sets.items()
    }
    RunFolder(folder).write(outputs, manifests, reads=False, system=system, seed=seed)
    settings = {"system": system, "seed": seed, "batch_size": 32, **settings} | ({key: value} if key else {})
    (folder / "hyperparams.yaml").write_text(json.dumps(settings))
    (folder / "log.txt").write_text(LOG)
    return folder


def read(folder):
    """Read a run's predictions and labels again, rounded as they are there."""
    with open(folder / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    columns = [[float(row[f"{prefix}{d}"]) for d in DIMENSIONS] for prefix in ("", "label_") for row in rows]
    return np.array(columns[:N]), np.array(columns[N:])


def score(summary, row, name, split="test1"):
    return [summary[row]["test"][split][dimension][name] for dimension in DIMENSIONS]


def by_row(runs):
    rows = {}
    for run in runs:
        rows.setdefault(run.system, []).append(run)
    return rows


def test_results_of_a_shorter_training_are_refused(tmp_path):
    folder = write_run(tmp_path, "cts", 1, number_of_epochs=20)
    path = folder / "metrics.json"
    report = json.loads(path.read_text())
    settings = {"system": "cts", "seed": 1, "batch_size": 32, "number_of_epochs": 20, "processes": 1}
    path.write_text(json.dumps(seal(report | {"settings": settings})))
    assert len(find_runs(tmp_path)) == 1
    path.write_text(json.dumps(seal(report | {"settings": settings | {"number_of_epochs": 10}})))
    with pytest.raises(InputError, match="cts/1: its results are of a training with number_of_epochs 10, not 20"):
        find_runs(tmp_path)


def test_each_run_is_read_once(tmp_path, monkeypatch):
    for seed in (1, 2):
        write_run(tmp_path, "cts", seed)
    read_rows, reads = ser_ts_lobes.results.run_folder.read_rows, []
    monkeypatch.setattr(
        ser_ts_lobes.results.run_folder, "read_rows", lambda *args: reads.append(args) or read_rows(*args)
    )
    assert summarise(by_row(find_runs(tmp_path)))["cts"]["seeds"] == [1, 2] and len(reads) == 2


def test_one_seed_is_what_its_metrics_say(tmp_path):
    folder = write_run(tmp_path, "cts", 1)
    summary = summarise(by_row(find_runs(tmp_path)))
    report = json.loads((folder / "metrics.json").read_text())["test"]["test1"]
    np.testing.assert_allclose(score(summary, "cts", "ccc"), [report[d]["ccc"] for d in DIMENSIONS], atol=1e-6)
    np.testing.assert_allclose(score(summary, "cts", "ccc_95"), [report[d]["ccc_95"] for d in DIMENSIONS], atol=1e-6)
    assert summary["cts"]["test"]["test1"]["resampled"] == report["resampled"] == "speakers"
    assert "ccc_std" not in summary["cts"]["test"]["test1"]["valence"]


def test_p_values_are_the_paired_bootstraps(tmp_path):
    folders = {system: write_run(tmp_path, system, 1, n_speakers=4) for system in ("ft", "ts")}
    summary = summarise(by_row(find_runs(tmp_path)), against="ft")
    (ft, label), (ts, _) = read(folders["ft"]), read(folders["ts"])
    paired = metrics.paired_bootstrap(ts, ft, label)
    assert score(summary, "ts", "p") == paired.p_value.tolist()
    np.testing.assert_allclose(score(summary, "ts", "difference"), paired.difference, atol=1e-12)
    np.testing.assert_allclose(np.transpose(score(summary, "ts", "difference_95")), paired.interval, atol=1e-12)
    assert "difference" not in summary["ft"]["test"]["test1"]["valence"]
    assert "p" not in summary["ft"]["test"]["test1"]["valence"]
    assert summary["ts"]["test"]["test1"]["resampled"] == "utterances"


def test_seeds_are_averaged_and_resampled_together(tmp_path):
    seeds = {"ft": (1, 2), "ts": (1, 2, 3)}
    data = {system: [read(write_run(tmp_path, system, seed)) for seed in seeds[system]] for system in seeds}
    summary = summarise(by_row(find_runs(tmp_path)), against="ft")
    label = data["ft"][0][1]
    values = np.array([metrics.ccc(prediction, label) for prediction, _ in data["ts"]])
    np.testing.assert_allclose(score(summary, "ts", "ccc"), values.sum(0) / 3, atol=1e-12)
    deviation = np.sqrt(((values - values.sum(0) / 3) ** 2).sum(0) / 2)
    np.testing.assert_allclose(score(summary, "ts", "ccc_std"), deviation, atol=1e-12)

    # One resample after the other: 20 speakers, each with utterances i and i + 20; np.unique sorts their names.
    random = np.random.default_rng(0)
    speakers = sorted(range(20), key=lambda speaker: f"s{speaker}")
    means = {system: [] for system in data}
    for _ in range(2000):
        drawn = [speakers[index] for index in random.integers(20, size=20)]
        rows = [row for speaker in drawn for row in (speaker, speaker + 20)]
        for system, runs in data.items():
            means[system].append(np.mean([metrics.ccc(p[rows], label[rows]) for p, _ in runs], axis=0))
    ft, ts = np.array(means["ft"]), np.array(means["ts"])
    np.testing.assert_allclose(score(summary, "ts", "ccc_95"), np.quantile(ts, [0.025, 0.975], axis=0).T, atol=1e-9)
    tail = np.minimum((ts <= ft).sum(0), (ts >= ft).sum(0))
    np.testing.assert_allclose(score(summary, "ts", "p"), np.minimum(2 * (tail + 1) / 2001, 1), atol=1e-12)


def test_the_gap_to_the_teacher_is_closed_in_part(tmp_path):
    data = {system: read(write_run(tmp_path, system, 1)) for system in ("ft", "ts", "teacher")}
    summary = summarise(by_row(find_runs(tmp_path)), against="ft")
    ft, ts, teacher = (metrics.ccc(*data[system]) for system in ("ft", "ts", "teacher"))
    np.testing.assert_allclose(score(summary, "ts", "gap_closed"), (ts - ft) / (teacher - ft), atol=1e-12)
    groups = [f"s{i % 20}" for i in range(N)]
    ft, ts, teacher = (metrics.resample(*data[system], groups) for system in ("ft", "ts", "teacher"))
    expected = np.quantile((ts - ft) / (teacher - ft), [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(score(summary, "ts", "gap_closed_95"), expected, atol=1e-9)
    assert all("gap_closed" not in summary[row]["test"]["test1"]["valence"] for row in ("ft", "teacher"))


def test_without_a_gap_none_is_closed(tmp_path):
    folder = write_run(tmp_path, "ft", 1)
    for system in ("teacher", "ts"):  # the same predictions
        shutil.copytree(folder, tmp_path / system / "1")
    summary = summarise(by_row(find_runs(tmp_path)), against="ft")
    assert "gap_closed" not in summary["ts"]["test"]["test1"]["valence"]


def test_folds_are_averaged_before_seeds(tmp_path):
    ccc = {}
    for seed in (1, 2):
        for fold in (1, 2, 3):
            folder = write_run(tmp_path, "cts", seed, fold, n_speakers=2, split="test")
            ccc[seed, fold] = metrics.ccc(*read(folder))
    summary = summarise(by_row(find_runs(tmp_path)))
    of_seed = np.array([[ccc[seed, fold] for fold in (1, 2, 3)] for seed in (1, 2)]).mean(1)
    np.testing.assert_allclose(score(summary, "cts", "ccc", "test"), of_seed.mean(0), atol=1e-12)
    expected = np.abs(of_seed[0] - of_seed[1]) / np.sqrt(2)
    np.testing.assert_allclose(score(summary, "cts", "ccc_std", "test"), expected, atol=1e-12)
    assert summary["cts"]["test"]["test"]["utterances"] == 3 * N
    assert summary["cts"]["hours"] == pytest.approx(3 * 0.75)
    # Folds are drawn independently: the mean of three varies about sqrt(3) times less than one.
    low, high = np.array(score(summary, "cts", "ccc_95", "test")).T
    single = summarise({"cts": [run for run in find_runs(tmp_path) if run.fold == 1]})
    wide = np.array(score(single, "cts", "ccc_95", "test"))
    assert ((high - low) < 0.8 * (wide[:, 1] - wide[:, 0])).all()


def test_a_seed_without_all_folds_does_not_count(tmp_path):
    for seed, fold in ((1, 1), (1, 2), (2, 1)):
        write_run(tmp_path, "cts", seed, fold)
    write_run(tmp_path, "ft", 1, 1)
    summary = summarise(by_row(find_runs(tmp_path)))
    assert summary["cts"]["seeds"] == [1] and "ft" not in summary


def report(recipe, results, **choices):
    make_tables(recipe, options=[f"--results_folder={results}"], report_only=True, **choices)
    return results / "table"


def test_markdown_latex_csv_and_figure_say_the_same(tmp_path, capsys):
    for system in ("cts", "ft", "teacher"):
        for seed in (1, 2):
            write_run(tmp_path, system, seed)
    folder = report(MSP, tmp_path)
    text = (folder / "table.md").read_text()
    assert text in capsys.readouterr().out
    caption, _, *table = text.strip().splitlines()
    summary = summarise(by_row(find_runs(tmp_path)), against="ft")
    valence = summary["cts"]["test"]["test1"]["valence"]
    cell = "{:.3f} ± {:.3f} [{:.3f}, {:.3f}]".format(valence["ccc"], valence["ccc_std"], *valence["ccc_95"])
    assert [line.split(" | ")[0] for line in table] == ["| test1", "| ---", "| teacher", "| ft", "| cts"]
    assert cell in table[-1] and "0.75 |" in table[-1]
    p = " / ".join(f"{value:.3f}" for value in score(summary, "cts", "p"))
    assert p in table[-1] and "p against ft" in table[0] and "| – |" in table[3]
    assert len({line.count("|") for line in table}) == 1
    for said in ("over speakers", "standard deviation", "difference from ft"):
        assert said in caption

    latex = (folder / "table.tex").read_text()
    body = re.search(r"\\toprule(.*)\\bottomrule", latex, re.DOTALL)[1].replace("\\midrule\n", "")
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", latex)[1]
    lines = body.strip().splitlines()
    assert len(lines) == 4 and all(line.endswith(r" \\") for line in lines)
    assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {len(columns)}
    assert cell.replace("±", r"$\pm$") in lines[-1]
    assert not re.search(r"(?<!\\)[%#_]|±|–|−", latex)
    assert latex.count("{") == latex.count("}") and latex.count("$") % 2 == 0

    with open(folder / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 3
    [row] = [row for row in rows if (row["system"], row["seed"], row["dimension"]) == ("cts", "2", "valence")]
    saved = json.loads((tmp_path / "cts" / "2" / "metrics.json").read_text())["test"]["test1"]["valence"]
    assert float(row["ccc"]) == saved["ccc"] and float(row["ccc_high"]) == saved["ccc_95"][1]
    assert float(row["hours"]) == 0.75 and row["folder"] == str(tmp_path / "cts" / "2")
    image = np.asarray(Image.open(folder / "ccc_test1.png").convert("L"))
    assert image.shape[1] > 500 and 0.001 < (image < 200).mean() < 0.5


def test_results_have_the_name_of_the_corpus_that_they_are_on(tmp_path, capsys):
    """A recipe reads others than the one that it is named after."""
    write_run(tmp_path, "ft", 1, data_folder="/somewhere/synthetic-speech")
    report(MSP, tmp_path)
    assert "CCC on test1 of synthetic-speech (recipe MSP-Podcast), 40 utterances:" in capsys.readouterr().out
    write_run(tmp_path, "ft", 2, data_folder="elsewhere/synthetic-speech")
    write_run(tmp_path, "cts", 2, data_folder="another")
    report(MSP, tmp_path)
    assert "of another, synthetic-speech (recipe MSP-Podcast)," in capsys.readouterr().out


def test_latex_escapes_what_names_hold(tmp_path):
    write_run(tmp_path, "ft", 1)
    (tmp_path / "ft").rename(tmp_path / "hubert_base")
    latex = (report(MSP, tmp_path) / "table.tex").read_text()
    assert r"hubert\_base & 1 &" in latex and "hubert_base" not in latex


def test_folds_and_missing_rows_are_said(tmp_path, capsys):
    for fold in (1, 2):
        write_run(tmp_path, "cts", 1, fold, n_speakers=2, split="test")
    write_run(tmp_path, "ft", 1, 2, n_speakers=2, split="test")
    report(IEMOCAP, tmp_path)
    text = capsys.readouterr().out
    assert "the mean of the CCCs of folds 1, 2" in text and "over utterances" in text
    assert "- ft: no finished run of all folds" in text
    assert "p against" not in text.split("\n| ")[1]  # ft is no row


@pytest.mark.parametrize(("n_speakers", "said"), [(20, "With 20 speakers such intervals are too narrow"), (4, None)])
def test_the_caption_says_where_intervals_are_too_narrow(tmp_path, recipe, n_speakers, said):
    write_run(tmp_path, "cts", 1, n_speakers=n_speakers)
    text = (report(recipe, tmp_path) / "table.md").read_text()
    assert said in text if said else "too narrow" not in text


@pytest.fixture
def recipe(tmp_path):
    """Give a recipe with the paper's figures of a corpus of 80 + 20 + 40 utterances, or two folds of 40 + 10 + 20."""
    folder = tmp_path / "Small"
    shutil.copytree(MSP / "hparams", folder / "hparams")
    header = (MSP / "paper.csv").read_text().splitlines()[0]
    sizes = f"80,20,{N}"
    lines = [
        header,
        f"1,,1.6,{sizes},train,cts,ccc,0.71,0.72,0.73",
        f"2,1,1.6,{sizes},test,cts,ccc,0.81,0.82,0.83",
        f"2,1,1.6,{sizes},test,cts,pearson,0.91,0.92,0.93",
        f"2,2,1.6,{sizes},test,ts,ccc,0.61,0.62,0.63",
        f"3,1,,80,20,{2 * N},test,cts,ccc,0.41,0.42,0.43",
    ]
    (folder / "paper.csv").write_text("\n".join(lines))
    return folder


def test_the_papers_figures_stand_beside_their_release(tmp_path, recipe):
    for system in ("ft", "cts"):
        write_run(tmp_path, system, 1, split="test", sizes={"train": 80, "valid": 20}, release=None)
    text = (report(recipe, tmp_path) / "table.md").read_text()
    *_, header, _, ft, cts = text.strip().splitlines()
    assert "The paper's: its Table 2, Small 1.6, test (40 utterances)." in text
    column = header.split(" | ").index("the paper's")
    assert [row.split(" | ")[column] for row in (ft, cts)] == ["", "0.810 / 0.820 / 0.830"]
    assert "0.610" not in text  # there is no such row
    latex = (tmp_path / "table" / "table.tex").read_text()
    assert "0.810 / 0.820 / 0.830" in latex and "its Table 2" in latex


@pytest.mark.parametrize(
    ("split", "sizes", "release"),
    [
        ("test1", {"train": 80, "valid": 20}, None),  # the demo, later releases
        ("test", {"train": 79, "valid": 20}, None),  # a corpus of one's own
        ("test", {"train": 80, "valid": 20}, 1.8),
        ("test", {"train": 80, "valid": 20, "test2": 9}, None),
    ],
)
def test_and_nowhere_else(tmp_path, recipe, split, sizes, release):
    write_run(tmp_path, "cts", 1, split=split, sizes=sizes, release=release)
    text = (report(recipe, tmp_path) / "table.md").read_text()
    assert "paper" not in text and "0.810" not in text


def test_one_run_on_other_data_hides_them(tmp_path, recipe):
    write_run(tmp_path, "cts", 1, split="test", sizes={"train": 80, "valid": 20})
    write_run(tmp_path, "ft", 1, split="test", sizes={"train": 60, "valid": 20})
    assert "paper" not in (report(recipe, tmp_path) / "table.md").read_text()


def test_figures_of_all_folds_are_not_shown_beside_fewer(tmp_path, recipe):
    write_run(tmp_path, "cts", 1, 1, split="test", sizes={"train": 40, "valid": 10})
    assert "paper" not in (report(recipe, tmp_path) / "table.md").read_text()
    write_run(tmp_path, "cts", 1, 2, split="test", sizes={"train": 40, "valid": 10})
    write_run(tmp_path, "cts", 2, 2, split="test", sizes={"train": 40, "valid": 10})  # without fold 1 it does not count
    text = (report(recipe, tmp_path) / "table.md").read_text()
    assert "0.410 / 0.420 / 0.430" in text and "its Table 3, Small, test (80 utterances)" in text
    assert "paper" not in (report(recipe, tmp_path, folds=[2]) / "table.md").read_text()


def test_a_sweep_is_a_table_of_values_and_a_curve(tmp_path, capsys):
    write_run(tmp_path, "cts", 1, residual_threshold=2.0)
    for value in (1.5, 10):
        write_run(tmp_path, "cts", 1, key="residual_threshold", value=value)
    write_run(tmp_path, "cts", 1, key="ts_weight", value=3)
    none = write_run(tmp_path, "cts", 1, key="residual_threshold", value=4)
    (none / "hyperparams.yaml").write_text('{"system": "cts", "seed": 1, "batch_size": 32, "residual_threshold": null}')
    write_run(tmp_path, "ft", 1)
    report(MSP, tmp_path, systems=["cts"], sweep=Sweep("residual_threshold", ("1.5",)))
    text = capsys.readouterr().out
    rows = re.findall(r"^\| (cts[^|]*) \|", text, re.MULTILINE)
    assert rows == [f"cts, residual_threshold {value}" for value in ("1.5", "2", "10", "none")]
    image = np.asarray(Image.open(tmp_path / "table" / "residual_threshold" / "curve_test1.png").convert("L"))
    assert image.shape[1] > 1000 and 0.001 < (image < 200).mean() < 0.5
    assert not (tmp_path / "table" / "table.md").exists()


def test_report_only_rebuilds_all_that_is_on_disk(tmp_path):
    write_run(tmp_path, "cts", 1, ts_weight=30)
    write_run(tmp_path, "cts", 1, key="ts_weight", value=3)
    folder = report(MSP, tmp_path)
    assert (folder / "table.md").read_text().count("| cts |") == 1
    assert (folder / "ts_weight" / "table.md").read_text().count("| cts, ts_weight ") == 2


def test_a_row_to_compare_with_may_be_chosen(tmp_path):
    for system in ("ft", "ts", "cts"):
        write_run(tmp_path, system, 1)
    assert "p against ts" in (report(MSP, tmp_path, against="ts") / "table.md").read_text()
    with pytest.raises(InputError, match="no row 'tss' to compare with; there are ft, ts, cts"):
        report(MSP, tmp_path, against="tss")


def test_runs_that_cannot_share_a_table_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no finished run"):
        report(MSP, tmp_path)
    write_run(tmp_path, "ft", 1)
    write_run(tmp_path, "ft", 2, batch_size=16)
    with pytest.raises(InputError, match="ft/1 and .*ft/2 are one row .* the first .* batch_size 32, not 16"):
        report(MSP, tmp_path)
    folder = write_run(tmp_path, "cts", 1)
    path = folder / "metrics.json"
    other = path.read_text().replace("test1 of fold None", "another")
    path.write_text(json.dumps(seal(json.loads(other))))
    with pytest.raises(InputError, match="were tested on different data"):
        report(MSP, tmp_path, seeds=[1])
    assert report(MSP, tmp_path, seeds=[1], systems=["ft"]).is_dir()


def test_the_command_takes_options_of_the_scripts_after_two_dashes(tmp_path, capsys):
    write_run(tmp_path, "ft", 1)
    write_run(tmp_path, "ft", 2)
    options = [f"--recipe={MSP}", "--systems", "ft", "--seeds", "2", "--", "--results_folder", str(tmp_path)]
    assert main(["table", "--report-only", *options]) == 0
    assert "| ft | 1 | " in capsys.readouterr().out  # one seed of two
    assert main(["table", "--dry-run", *options[:4], "7", *options[5:], "--data_folder=my corpus"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"cd {MSP}" and said[2] == "# 0 of 1 jobs are finished"
    assert shlex.split(said[1])[:3] == ["python", "train_student.py", "hparams/ft.yaml"]
    assert set(shlex.split(said[1])[3:]) == {f"--results_folder={tmp_path}", "--seed=7", "--data_folder=my corpus"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=one"], "'one' should be whole numbers"),
        (["--slurm=partition"], "'partition' should be KEY=VALUE"),
        (["--gpus=0", "--slurm=time=5"], "not allowed with argument"),
        (["--gpus=0", "--jobs=2"], "a GPU has one job at a time"),
        (["--jobs=0"], "'0' should be a whole number from 1 on"),
        (["--systems=ft", "--against=ts"], "--against ts is none of the systems ft"),
        (["--recipe=/"], "has no hparams"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(["table", f"--recipe={MSP}", *arguments])
    assert message in f"{error.value.code} {capsys.readouterr().err}"
