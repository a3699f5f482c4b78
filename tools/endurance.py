"""Kill each program at random moments, start it again, and see it end as if nothing had been.

To run: ``make endurance`` (6 minutes), or ``python -m tools.endurance --kills 10 --programs student export``.

Each program works on tiny networks and made-up speech, first undisturbed. Then it is killed (SIGKILL to its process
group) at moments drawn from the seed: half of them just before it opens a file to write, renames, removes, ... one, the
others at any time between two such operations, so that what is written without Python's knowing is hit, too. After
each kill no file may be half-written; after the same command has been given again, until it ends by itself,

- all files must be those of the undisturbed run, by their content: metrics, predictions, targets, checkpoints, frozen
  features, an exported student; and there may be no others;
- what was finished must not have been done again: epochs that had been saved, shards, transcripts, jobs of a table.
"""

import argparse
import contextlib
import csv
import functools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors import safe_open

from ser_ts_lobes.data import transcription
from ser_ts_lobes.fingerprint import fingerprint_file, fingerprint_tensors
from ser_ts_lobes.results.text_tables import markdown_table
from ser_ts_lobes.text_files import read_rows
from ser_ts_lobes.training import features
from tests.integration.programs import ROOT, TIMEOUT_S, start_warm

N_EPOCHS, N_UNTOLD = 3, 12  # epochs of each training, utterances to transcribe
SEED = 1986  # of the runs
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
#: Python's names (audit events) of operations that change files.
_OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
#: These tell when and where something ran, and are of no run alone.
_OF_THE_MOMENT = re.compile(r"log\.txt|env\.log|.*\.lock|\.in_use|table/logs/.*|shard_digests\.json")
#: These grow line by line, and need not be whole.
_LOGS = re.compile(r"(train_)?log\.txt|env\.log|.*\.log")
#: What a table says of how long a run took.
_HOURS = re.compile(r"\b0\.0\d+(?=,/| \|$| \\\\)", re.MULTILINE)


class Failed(Exception):
    """A program has not ended as it should; the message has its output."""


@dataclass(frozen=True)
class Program:
    """A program that is killed.

    Attributes
    ----------
    command
        A script with its arguments, relative to the root; or ``-m`` and a module.
    after
        The program whose results it needs, if any.
    kept
        Patterns of files that are finished once they are there, and not written again.
    within
        A part of the names of the files around whose operations it is killed; empty for any.
    is_runner
        Whether it starts others, whose operations can't be seen: it is killed by time alone.
    """

    command: tuple[str, ...]
    after: str | None = None
    kept: tuple[str, ...] = ()
    within: str = ""
    is_runner: bool = False


@dataclass(frozen=True)
class Moment:
    """When to kill: a time after an operation on a file, the first of which is 1; 0 is the start."""

    operation: int
    delay_s: float
    what: str = "the start"

    def __str__(self):
        return f"{1000 * self.delay_s:.1f} ms after {self.what}" if self.delay_s else f"before {self.what}"


@dataclass
class Tally:
    """What became of a program: its moments, how long it takes undisturbed, and what was wrong."""

    operations: int
    seconds: float
    moments: list[Moment] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def make_programs(material, work):
    """Name the programs, with commands that take from one folder and write to another."""
    common = ["--batch_size=8", "--num_workers=0", "--device=cpu", f"--results_folder={work}", f"--seed={SEED}"]
    trains = [*common, f"--data_folder={material / 'msp'}", f"--number_of_epochs={N_EPOCHS}"]
    hears, reads = f"--speech_source={material / 'hubert'}", f"--text_source={material / 'bert'}"
    words = ["--hidden_size=16", "--num_layers=2", "--num_heads=2", "--n_pieces=40"]
    msp = "recipes/MSP-Podcast"

    def script(name, hparams, *options):
        return f"{name}.py", f"{os.path.dirname(name)}/hparams/{hparams}.yaml", *options

    def cli(*arguments):
        return "-m", "ser_ts_lobes.cli", *arguments

    shards = "features/*/shard-*.safetensors"
    table = ["table", f"--recipe={ROOT / msp}", "--systems=teacher,cts", f"--seeds={SEED}", "--", *trains, hears, reads]
    table.remove(f"--seed={SEED}")
    return {
        "teacher": Program(script(f"{msp}/train_teacher", "teacher", *trains, hears, reads), kept=(shards,)),
        "targets": Program(
            script(f"{msp}/precompute_targets", "teacher", *trains, hears, reads), after="teacher", kept=(shards,)
        ),
        "features": Program(
            script(f"{msp}/train_student", "hubert_base", *trains, hears, "--feature_dtype=float32"),
            kept=(shards,),
            within="features",
        ),
        "student": Program(
            script(f"{msp}/train_student", "cts", *trains, hears, "--trainable_layers=1", "--ckpt_interval_steps=2"),
            after="targets",
            kept=(shards,),
        ),
        "warm start": Program(
            script(
                "recipes/TranscribedSpeech/Words/train_words",
                "words",
                *common,
                f"--number_of_epochs={N_EPOCHS}",
                f"--sources=[{material / 'msp'}]",
                *(hears, reads, *words),
            ),
            kept=(shards,),
        ),
        "transcription": Program(
            cli(
                "transcribe",
                str(material / "untold"),
                f"--asr={material / 'recogniser'}",
                "--device=cpu",
                "--batch-size=2",
                f"--out={work / 'transcripts.csv'}",
            )
        ),
        "table": Program(
            cli(*table, "--cts.trainable_layers=1"),
            kept=("*/[0-9]*/metrics.json", "teacher/*/targets/*.safetensors", shards),
            is_runner=True,
        ),
        "export": Program(
            cli("export", str(work / "cts" / str(SEED)), "--out", str(work / "student"), "--force"), after="student"
        ),
    }


def make_material(folder):
    """Write the corpora and the networks that the programs take."""
    from tests.fixtures_msp import write_msp_tree
    from tests.tiny_models import save_tiny_bert, save_tiny_recogniser, save_tiny_ssl

    msp = write_msp_tree(folder / "msp", {"Train": 24, "Development": 8, "Test1": 8})
    save_tiny_ssl(folder / "hubert")
    save_tiny_bert(folder / "bert")
    save_tiny_recogniser(folder / "recogniser")
    (folder / "untold").mkdir()
    rows = []
    for path in sorted((msp / "Audios").glob("*.wav"))[:N_UNTOLD]:
        rows.append([path.stem, 1.0, path, "1", "Unknown", "", "", "", "", ""])
    with open(folder / "untold" / "test.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("ID duration wav spk_id gender activation valence dominance transcript emotion".split())
        writer.writerows(rows)
    for path in folder.rglob("*"):
        if path.is_file():  # what has just been changed is not yet kept by its digest
            os.utime(path, (path.stat().st_mtime - 60,) * 2)


def _watch(sender, work, moment, before):
    """In a program: tell of each operation on its files, or be killed around one."""
    os.setpgid(0, 0)
    if before is not None:
        before()
    # Little at a time, so that there is something between the beginning and the end.
    features._SHARD_BYTES, transcription.SAVE_EVERY_S = 4096, 0.0
    main, count = os.getpid(), 0

    def reach():
        if moment.delay_s:
            sender.send(moment.delay_s)  # to one who is not held up by this process
        else:
            os.killpg(0, signal.SIGKILL)

    def watch(event, arguments):
        nonlocal count
        if event not in _OPERATIONS or (event == "open" and not (arguments[2] or 0) & _WRITES):
            return
        path = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(work) or os.getpid() != main:
            return
        count += 1
        if moment is None:
            sender.send((time.time(), f"{event} {os.path.relpath(os.fsdecode(path), work)}"))
        elif count == moment.operation:
            reach()

    if moment is None:
        sender.send((time.time(), "the start"))
    elif moment.operation == 0:
        reach()
    sys.addaudithook(watch)


class Interrupter:
    """Runs programs, disturbs them, and compares what they leave.

    Parameters
    ----------
    folder
        An empty folder, where all happens.
    seed
        Of the moments.
    say
        Is called with a line of each kill.
    """

    def __init__(self, folder, seed=0, say=print):
        self.folder, self.say, self.random = Path(folder), say, random.Random(seed)
        self.material, self.work = self.folder / "material", self.folder / "work"
        self.material.mkdir()
        make_material(self.material)
        self.programs = make_programs(self.material, self.work)
        self.tallies = {}
        self._undisturbed = {}

    def interrupt(self, name, kills):
        """Kill a program so often, and note what is wrong afterwards."""
        tally, timeline, whole = self._run_undisturbed(name)
        wanted = len(tally.moments) + kills
        while len(tally.moments) < wanted:
            left = wanted - len(tally.moments)
            # One in three is killed again while it makes up for the first time.
            n_moments = 2 if left > 1 and self.random.random() < 1 / 3 else 1
            moments = [self._draw(self.programs[name], timeline) for _ in range(n_moments)]
            self._try(name, moments, whole, tally)

    def _run_undisturbed(self, name):
        """Run a program, and those before it; give its tally, the times of its operations, and what it leaves."""
        if name not in self._undisturbed:
            program = self.programs[name]
            if program.after:
                self._run_undisturbed(program.after)
            self.restore(program.after)
            started = time.time()
            timeline, _ = self.run(program)
            shutil.copytree(self.work, self._state(name))
            tally = self.tallies[name] = Tally(len(timeline) - 1, time.time() - started)
            self._undisturbed[name] = tally, timeline, contents(self.work)
        return self._undisturbed[name]

    def undisturbed(self, name):
        """Give what a program leaves that nothing disturbs, as of `contents`."""
        return self._run_undisturbed(name)[2]

    def _state(self, name):
        return self.folder / "states" / name

    def restore(self, name):
        """Put back what a program had left; nothing for None."""
        shutil.rmtree(self.work, ignore_errors=True)
        if name:
            shutil.copytree(self._state(name), self.work)
        else:
            self.work.mkdir()

    def _draw(self, program, timeline):
        """Draw a moment: at an operation, or at a time."""
        times = [time for time, _ in timeline]
        n_last = len(times) - 1
        if program.is_runner:
            return Moment(0, self.random.uniform(0, self.tallies["table"].seconds))
        places = [place for place, (_, what) in enumerate(timeline) if place and program.within in what]
        if self.random.random() < 0.5:
            place = self.random.choice(places)
            return Moment(place, 0, timeline[place][1])
        if self.random.random() < 0.5:  # of any operation alike, or else of any time alike
            place = self.random.choice(places)
            delay = self.random.random() * (times[place + 1] - times[place] if place < n_last else 0.01)
        else:
            moment = self.random.uniform(times[places[0]], times[min(places[-1] + 1, n_last)])
            place = max(place for place, time in enumerate(times) if time <= moment)
            delay = moment - times[place]
        return Moment(place, max(delay, 1e-6), timeline[place][1])

    def _try(self, name, moments, whole, tally):
        """Kill a program at some moments, one after another, and let it end; note what is wrong."""
        program, problems = self.programs[name], []
        self.restore(program.after)
        base, killed = contents(self.work), []
        for moment in moments:
            output = self.run(program, moment)[1]
            if output is not None:  # it has ended before
                break
            killed.append(moment)
            problems += half_written(self.work, {**base, **whole})
            finished, logs = self._finished(program), _read_logs(self.work)
        if not killed:
            return
        tally.moments += killed
        try:
            if output is None:
                output = self.run(program)[1]
        except Failed as error:
            problems.append(str(error))
        else:
            problems += differences(whole, contents(self.work))
            problems += [f"{path} was written again" for path, state in finished.items() if _state_of(path) != state]
            problems += self._done_again(name, logs, output)
        told = f"{name}, killed {' and '.join(map(str, killed))}: {'; '.join(problems) or 'the same'}"
        self.say(told)
        tally.problems += [told] if problems else []

    def _finished(self, program):
        """Give the state of what is there and must not be written again."""
        paths = [path for pattern in program.kept for path in self.work.glob(pattern)]
        self._saved = {path.parent: _saved_epoch(path) for path in self.work.glob("*/*/save")}
        transcripts = self.work / "transcripts.csv"
        self._n_transcribed = sum(1 for _ in read_rows(transcripts, ["ID"])) if transcripts.is_file() else 0
        return {path: _state_of(path) for path in paths}

    def _done_again(self, name, logs, output):
        """Say which epochs or transcripts that had been saved were made again."""
        problems = []
        if name == "transcription":
            told = re.search(r"Transcribed (\d+) utterances", output)
            n_left = N_UNTOLD - self._n_transcribed
            if (int(told[1]) if told else 0) != n_left:
                problems.append(f"{n_left} utterances were left, and it says {output[-300:]!r}")
        for run, saved in self._saved.items():
            lines = (run / "log.txt").read_text(encoding="utf-8", errors="replace")[logs.get(run, 0) :]
            trained = [int(epoch) for epoch in re.findall(r"- epoch: (\d+), ", lines)]
            if trained != list(range(saved + 1, N_EPOCHS + 1)):
                problems.append(f"{run.name}: {saved} epochs had been saved, and {trained} were trained afterwards")
        return problems

    def run(self, program, moment=None, before=None):
        """Run a program to its end or to a moment.

        Parameters
        ----------
        program
            One of `programs`, or another.
        moment
            When to kill it; None for not at all.
        before
            Is called in its process first.

        Returns
        -------
        timeline : list
            Times of its operations, and what they were, where nothing disturbs it.
        output : str or None
            None if it was killed.

        Raises
        ------
        Failed
            With all its output, if it fails.
        """
        receiver, sender = multiprocessing.Pipe(duplex=False)
        timeline = []
        with tempfile.TemporaryFile("w+") as output:
            first = functools.partial(_watch, sender, str(self.work), moment, before)
            process = start_warm(list(program.command), output, first)
            sender.close()
            for told in _listen(receiver):
                if moment is None:
                    timeline.append(told)
                else:
                    process.join(told)
                    _kill(process)
            process.join(TIMEOUT_S)
            if process.exitcode is None:
                _kill(process)
                raise Failed(f"it has not ended after {TIMEOUT_S} s")
            if process.exitcode == -signal.SIGKILL and moment is not None:
                return timeline, None
            output.seek(0)
            text = output.read()
            if process.exitcode:
                raise Failed(f"it ended with {process.exitcode}:\n{text}")
            return timeline, text


def _listen(receiver):
    """Give what a program tells until it has ended with all its processes, or tells nothing for long."""
    while receiver.poll(TIMEOUT_S):
        try:
            yield receiver.recv()
        except EOFError:
            return


def _kill(process):
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(process.pid, signal.SIGKILL)


def _read_logs(work):
    """Give how long the log of each run is."""
    return {path.parent: len(path.read_text(encoding="utf-8", errors="replace")) for path in work.glob("*/*/log.txt")}


def _state_of(path):
    return (path.stat().st_mtime_ns, path.stat().st_ino) if path.exists() else None


def _saved_epoch(save_folder):
    """Give the last epoch whose end has been saved."""
    metas = [yaml.safe_load(path.read_text()) for path in save_folder.glob("CKPT*/CKPT.yaml")]
    return max((meta["epoch"] for meta in metas if meta["end-of-epoch"]), default=0)


def contents(folder):
    """Describe all files of a folder by what they hold, without what is of the moment.

    Parameters
    ----------
    folder
        Of programs' results.

    Returns
    -------
    dict of str to Any
        By name. Checkpoints are numbered, as they have been saved; of frozen features it is said what is there, not in
        which shards.
    """
    described = {}
    checkpoints = {}
    for meta in folder.rglob("CKPT.yaml"):
        checkpoints.setdefault(meta.parent.parent, []).append(meta.parent)
    number = {
        path: f"checkpoint {place}"
        for paths in checkpoints.values()
        for place, path in enumerate(sorted(paths, key=_recency))
    }
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name = str(path.relative_to(folder))
        if path.parent in number:
            name = str(path.parent.parent.relative_to(folder) / number[path.parent] / path.name)
        if _OF_THE_MOMENT.fullmatch(path.name) or _OF_THE_MOMENT.fullmatch(name):
            continue
        if path.name.startswith("shard-"):
            with safe_open(path, framework="pt") as shard:
                for key in shard.keys():
                    kept = described.setdefault(f"{path.parent.relative_to(folder)}: {key}", [])
                    kept.append(fingerprint_tensors({"": shard.get_tensor(key)}))
        else:
            described[name] = _describe(path)
    return described


def _recency(checkpoint):
    return yaml.safe_load((checkpoint / "CKPT.yaml").read_text())["unixtime"]


def _describe(path):
    if path.name == "CKPT.yaml":
        return {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "unixtime"}
    if path.name == "hyperparams.yaml":
        return [line for line in path.read_text().splitlines() if not line.startswith("#")]
    if path.suffix == ".safetensors":  # whose header is in any order
        with safe_open(path, framework="pt") as file:
            tensors = {key: fingerprint_tensors({"": file.get_tensor(key)}) for key in sorted(file.keys())}
            return repr((tensors, sorted((file.metadata() or {}).items())))
    if path.parent.name == "table" and path.suffix in (".csv", ".md", ".tex"):
        return _HOURS.sub("hours", path.read_text())
    if path.suffix == ".ckpt" and zipfile.is_zipfile(path):
        return repr(_by_content(torch.load(path, weights_only=True)))
    return fingerprint_file(path)


def _by_content(value):
    """Replace tensors in what a checkpoint holds by their digests."""
    if isinstance(value, torch.Tensor):
        return fingerprint_tensors({"": value})
    if isinstance(value, dict):
        return {key: _by_content(item) for key, item in value.items()}
    return [_by_content(item) for item in value] if isinstance(value, list | tuple) else value


def differences(expected, found):
    """Say in which files two folders differ, as of `contents`.

    Example
    -------
    >>> differences({"a": 1, "b": 2}, {"a": 1, "b": 3, ".b.tmp": 4})
    ['.b.tmp is left over', 'b is another']
    """
    problems = [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    problems += [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    return problems + [
        f"{name} is another" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]
    ]


def half_written(folder, known):
    """Say which files are neither as they end, nor whole by their own measure; temporary ones may be anything.

    Parameters
    ----------
    folder
        After a kill.
    known
        What files hold before or after a whole run, as of `contents`.
    """
    problems = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        saving = path.parent.name.startswith("CKPT") and not (path.parent / "CKPT.yaml").is_file()
        if path.is_dir() or hidden or saving or _LOGS.fullmatch(path.name) or path.suffix == ".ckpt":
            continue
        name = str(path.relative_to(folder))
        try:
            if _describe(path) != known.get(name):
                _read_whole(path)
        except Exception as error:  # whatever a reader says of a file that is not whole
            problems.append(f"{name} is half-written ({type(error).__name__}: {str(error)[:100]})")
    return problems


def _read_whole(path):
    """Read a file that may be another than in the end."""
    if path.name == "CKPT.yaml":
        _describe(path)["end-of-epoch"]
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            file.keys()
    elif path.suffix == ".csv":
        text = path.read_text()
        list(read_rows(path, []))
        if not text.endswith("\n"):
            raise ValueError("no line break at the end")
    else:
        raise ValueError("not as it ends")


def main(arguments=None):
    """Read the command line, kill, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", metavar="N", type=int, default=50, help="in all (default: 50)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--programs", metavar="NAME", nargs="+", help="default: all")
    parser.add_argument("--keep", metavar="DIR", help="work in this new folder, and leave it there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        if options.keep:
            folder = Path(options.keep).absolute()
            folder.mkdir(parents=True)
        interrupter = Interrupter(folder, options.seed, functools.partial(print, flush=True))
        names = options.programs or list(interrupter.programs)
        try:
            for name, kills in share_out(options.kills, {name: interrupter.programs[name] for name in names}).items():
                interrupter.interrupt(name, kills)
        finally:  # it takes long, and may be stopped
            print(f"\n{describe(interrupter.tallies)}")
    problems = [problem for tally in interrupter.tallies.values() for problem in tally.problems]
    if problems:
        sys.exit(f"error: {len(problems)} programs did not end as if nothing had been:\n\n" + "\n\n".join(problems))


def share_out(kills, programs):
    """Share kills out among programs by name, a fourth as many to one that starts others, which takes the longest.

    Example
    -------
    >>> share_out(18, {"a": Program(("a.py",)), "b": Program(("b.py",)), "table": Program(("c.py",), is_runner=True)})
    {'a': 8, 'b': 8, 'table': 2}
    """
    weights = {name: 1 if program.is_runner else 4 for name, program in programs.items()}
    shares, total = {}, sum(weights.values())
    for name, weight in weights.items():
        shares[name] = round(kills * weight / total)
        kills, total = kills - shares[name], total - weight
    return shares


def describe(tallies):
    """Write the table of what became of the programs that were killed."""
    rows = [
        [
            name,
            str(len(tally.moments)),
            str(sum(not moment.delay_s for moment in tally.moments)),
            str(tally.operations),
            f"{tally.seconds:.0f}",
            "the same" if not tally.problems else f"**{len(tally.problems)} differ**",
        ]
        for name, tally in tallies.items()
        if tally.moments
    ]
    head = ["program", "kills", "of these at an operation", "operations on files", "seconds undisturbed", "result"]
    return markdown_table(head, rows)


if __name__ == "__main__":
    main()
