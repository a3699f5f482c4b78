"""`ser-ts table` on a tiny corpus: killed midway and started again, as a user would."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

from ser_ts_lobes.cli import main
from tests.fixtures_msp import write_msp_tree
from tests.integration.programs import ROOT
from tests.tiny_models import save_tiny_bert, save_tiny_ssl

N_EPOCHS = 12


def test_a_table_that_was_killed_finishes_the_rest_only(tmp_path, capsys):
    corpus = write_msp_tree(tmp_path / "msp", {"Train": 16, "Development": 8, "Test1": 8})
    results = tmp_path / "results"
    recipe = ROOT / "recipes" / "MSP-Podcast"
    command = ["table", f"--recipe={recipe}", "--systems=teacher,cts", "--seeds=3", "--"]
    command += [
        f"--data_folder={corpus}",
        f"--results_folder={results}",
        f"--speech_source={save_tiny_ssl(tmp_path / 'hubert')}",
        f"--text_source={save_tiny_bert(tmp_path / 'bert')}",
        "--teacher.number_of_epochs=2",
        f"--cts.number_of_epochs={N_EPOCHS}",
        "--cts.trainable_layers=1",
        "--batch_size=8",
        "--num_workers=0",
        "--device=cpu",
    ]
    log = results / "cts" / "3" / "train_log.txt"
    with open(tmp_path / "output.txt", "w") as output:
        runner = subprocess.Popen(
            [sys.executable, "-m", "ser_ts_lobes.cli", *command],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.time() + 300
    while not log.is_file() or len(log.read_text().splitlines()) < 3:
        assert runner.poll() is None and time.time() < deadline, (tmp_path / "output.txt").read_text()
        time.sleep(0.02)
    os.killpg(runner.pid, signal.SIGKILL)  # the runner and the script that it was running
    runner.wait()
    n_killed = len(log.read_text().splitlines())
    assert n_killed < N_EPOCHS
    teacher = results / "teacher" / "3"
    kept = {path: path.stat().st_mtime_ns for path in (teacher / "metrics.json", teacher / "targets/train.safetensors")}

    assert main(command) == 0
    assert "1 of 3 jobs to run" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    # Behind the epochs are lines of the test.
    epochs = [int(number) for number in re.findall(r"^epoch: (\d+)", log.read_text(), re.MULTILINE)]
    # The epoch that had been logged, but not saved, may come again.
    assert epochs[n_killed] in (n_killed, n_killed + 1) and epochs[-1] == N_EPOCHS
    with open(results / "table" / "results.csv") as file:
        assert [row["system"] for row in csv.DictReader(file)] == ["teacher"] * 3 + ["cts"] * 3
    report = json.loads((results / "cts" / "3" / "metrics.json").read_text())
    cell = f"| cts | 1 | {report['test']['test1']['activation']['ccc']:.3f} ["
    assert cell in (results / "table" / "table.md").read_text()

    assert main(command) == 0
    assert "0 of 2 jobs to run" in capsys.readouterr().out
