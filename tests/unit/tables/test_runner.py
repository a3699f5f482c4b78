"""Jobs of a plan, with scripts that train nothing."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import hold_lock
from ser_ts_lobes.tables.plan import Job
from ser_ts_lobes.tables.runner import Failure, LocalPool, SlurmPool, run_jobs
from tests.integration.programs import ROOT

SCRIPT = """
import os, pathlib, sys, time
folder, start_s, train_s, status = pathlib.Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
started = time.time()
with open(folder / "started", "a") as file:
    file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}\\n")
time.sleep(start_s)
(folder / "train_log.txt").touch()
time.sleep(train_s)
print("last words of", folder.name)
if status:
    sys.exit(status)
(folder / "times").write_text(f"{started} {time.time()}")
(folder / "metrics.json").touch()
"""


def make_job(folder, name, start_s=0, train_s=0, status=0, needs=(), shares=None):
    (folder / "recipe").mkdir(exist_ok=True)
    (folder / "recipe" / "train.py").write_text(SCRIPT)
    settings = {
        "output_folder": str(folder / name),
        "manifest_folder": shares or name,
        "prepare_opts": {"manifest_folder": shares or name},
        "feature_folder": None,
    }
    arguments = [settings["output_folder"], str(start_s), str(train_s), str(status)]
    return Job(name, folder / "recipe", "train.py", arguments, settings, makes={}, needs=list(needs))


def run(folder, plan, **options):
    return run_jobs(plan, LocalPool(folder, **options), folder)


def times(job):
    return [float(value) for value in (job.folder / "times").read_text().split()]


def starts(job):
    path = job.folder / "started"
    return path.read_text().splitlines() if path.is_file() else []


def test_jobs_run_after_what_they_need(tmp_path):
    jobs = [
        make_job(tmp_path, "teacher", train_s=0.3),
        make_job(tmp_path, "targets", needs=["teacher"]),
        make_job(tmp_path, "cts", needs=["targets"]),
        make_job(tmp_path, "ft"),
    ]
    assert run(tmp_path, jobs, jobs=3) == []
    teacher, targets, cts, _ = map(times, jobs)
    assert teacher[1] <= targets[0] and targets[1] <= cts[0]


def test_all_jobs_get_the_pools_variables(tmp_path):
    job = make_job(tmp_path, "a")
    assert run(tmp_path, [job], environment={"CUDA_VISIBLE_DEVICES": "7"}) == []
    assert starts(job)[0].split()[0] == "7"


def test_what_is_finished_is_not_run_again(tmp_path):
    jobs = [make_job(tmp_path, "a"), make_job(tmp_path, "b", needs=["a"])]
    jobs[0].folder.mkdir()
    (jobs[0].folder / "metrics.json").touch()
    assert run(tmp_path, jobs) == []
    assert (len(starts(jobs[0])), len(starts(jobs[1]))) == (0, 1)
    assert run(tmp_path, jobs) == [] and len(starts(jobs[1])) == 1


def test_a_script_that_somebody_has_started_by_hand_is_waited_for(tmp_path):
    """What it finishes is not run again; the script that the runner starts is told that its lock is taken for it."""
    job = make_job(tmp_path, "a")
    job.folder.mkdir()
    by_hand = f"""
import pathlib, sys, time
from ser_ts_lobes.files import hold_lock
hold_lock({str(job.folder / ".lock")!r})
print("holds", flush=True)
time.sleep(1.5)
pathlib.Path({str(job.folder / "metrics.json")!r}).touch()
"""
    other = subprocess.Popen([sys.executable, "-c", by_hand], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "holds\n"
    with pytest.raises(InputError, match=rf"is in use by process {other.pid} on .*: wait until it is done"):
        hold_lock(job.folder / ".lock")
    assert run(tmp_path, [job]) == [] and starts(job) == [] and other.wait() == 0
    (tmp_path / "recipe" / "train.py").write_text(
        "import os\nfrom ser_ts_lobes.files import hold_lock\n"
        f"hold_lock({str(tmp_path / 'b' / '.lock')!r}, os.environ['SER_TS_LOCK'])\n"
        f"open({str(tmp_path / 'b' / 'metrics.json')!r}, 'w')\n"
    )
    job = dataclasses.replace(job, settings=job.settings | {"output_folder": str(tmp_path / "b")})
    assert run(tmp_path, [job]) == [] and job.finished


def test_a_failure_stops_only_what_needs_it(tmp_path):
    jobs = [
        make_job(tmp_path, "teacher", status=3),
        make_job(tmp_path, "targets", needs=["teacher"]),
        make_job(tmp_path, "cts", needs=["targets"]),
        make_job(tmp_path, "ft"),
    ]
    failures = run(tmp_path, jobs)
    assert [failure.job.name for failure in failures] == ["teacher", "targets", "cts"]
    assert [len(starts(job)) for job in jobs] == [1, 0, 0, 1] and jobs[3].finished
    told = failures[0].describe()
    assert "teacher: ended with status 3; the end of" in told and "    last words of teacher" in told
    assert failures[2].describe() == "cts: not run, for it needs targets"


def test_a_script_that_writes_no_results_has_failed(tmp_path):
    job = make_job(tmp_path, "ft")
    (tmp_path / "recipe" / "train.py").write_text("print('nothing')")
    [failure] = run(tmp_path, [job])
    assert "ended without its results" in failure.describe() and "nothing" in failure.describe()


def test_a_gpu_has_one_job_at_a_time(tmp_path):
    jobs = [make_job(tmp_path, f"ft{i}", train_s=1) for i in range(3)]
    pool = LocalPool(tmp_path, gpus=["4", "7"])
    pool.start(jobs[0])
    assert pool.has_room()
    second = pool.start(jobs[1])
    assert not pool.has_room()
    while not second.done():
        time.sleep(0.05)
    third = pool.start(jobs[2])
    while not third.done():
        time.sleep(0.05)
    gpus = [starts(job)[0].split()[0] for job in jobs]
    assert set(gpus[:2]) == {"4", "7"} and gpus[2] in gpus


def test_a_job_of_several_processes_has_a_gpu_for_each(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    pool = LocalPool(tmp_path, gpus=["4", "5", "6", "7"], processes=2)
    environments = [pool.start(make_job(tmp_path, f"ft{i}", train_s=1)).environment for i in range(2)]
    assert environments == [{"CUDA_VISIBLE_DEVICES": gpus, "OMP_NUM_THREADS": "3"} for gpus in ("4,5", "6,7")]
    assert not pool.has_room()
    with pytest.raises(InputError, match="3 GPUs are no multiple of 2, the --processes of each job"):
        LocalPool(tmp_path, gpus=["0", "1", "2"], processes=2)


def test_of_a_failure_the_sentence_is_told_once_and_not_what_torchrun_adds(tmp_path):
    log = tmp_path / "cts.log"
    log.write_text(
        "$ cd recipe && python\nerror: of the last time\n$ cd recipe && python\n" + 2 * "error: no GPU.\n" + 9 * "...\n"
    )
    told = Failure(make_job(tmp_path, "cts"), "ended with status 1", log).describe()
    assert told == f"cts: ended with status 1; the end of {log}:\n    error: no GPU."


class PollPool:
    """Runs jobs by polls: each has made what it shares at its second poll, and ends at its third."""

    def __init__(self, room):
        self.room, self.running, self.history = room, [], []

    def has_room(self):
        return len(self.running) < self.room

    def start(self, job):
        job.folder.mkdir()
        self.running.append(job)
        self.history.append([other.name for other in self.running])
        polls = iter(["start", "train", "end"])

        def done():
            step = next(polls)
            if step == "train":
                for made in job.shares.values():
                    made.parent.mkdir(exist_ok=True)
                    made.touch()
            elif step == "end":
                (job.folder / "metrics.json").touch()
                self.running.remove(job)
            return step == "end"

        return SimpleNamespace(done=done, result=lambda: 0)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("ser_ts_lobes.tables.runner._POLL_S", 0)


@pytest.mark.parametrize("cached", [False, True])
def test_of_jobs_that_would_make_the_same_files_one_starts_alone(tmp_path, quick, cached):
    jobs = [make_job(tmp_path, f"ft{i}", shares="manifests") for i in range(3)]
    pool, at_start = PollPool(room=3), []
    start = pool.start
    [made] = jobs[0].shares.values()
    pool.start = lambda job: (at_start.append(made.is_file()), start(job))[1]
    if cached:
        made.parent.mkdir()
        made.touch()
    assert run_jobs(jobs, pool, tmp_path) == []
    assert pool.history == [["ft0"], ["ft0", "ft1"], ["ft0", "ft1", "ft2"]]
    assert at_start == [cached, True, True]  # the others wait for the first, or for nobody


def test_no_more_jobs_run_than_there_is_room_for(tmp_path, quick):
    pool = PollPool(room=2)
    assert run_jobs([make_job(tmp_path, f"ft{i}") for i in range(5)], pool, tmp_path) == []
    assert len(pool.history) == 5 and max(map(len, pool.history)) == 2


def test_progress_is_told_at_each_tenth_of_a_training(tmp_path, quick, capsys):
    job = make_job(tmp_path, "ft")
    job.settings["number_of_epochs"] = 20
    epochs = iter([0, 1, 2, 3, 4, 5, 19, 20, 20])

    class Pool:
        def has_room(self):
            return True

        def start(self, job):
            job.folder.mkdir()
            return SimpleNamespace(done=self.done, result=lambda: 0)

        def done(self):
            done = next(epochs, None)
            if done is None:
                (job.folder / "metrics.json").touch()
            else:
                lines = [f"epoch: {epoch} - train loss: 1" for epoch in range(1, done + 1)]
                (job.folder / "train_log.txt").write_text("\n".join([*lines, "epoch loaded: 3 - test ..."]))
            return done is None

    assert run_jobs([job], Pool(), tmp_path) == []
    told = [line.strip() for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert told == [f"ft: epoch {epoch} of 20" for epoch in (2, 4, 19)]


def start_runner(folder):
    """Start a runner of three jobs in a process of its own; wait until the second has come to train."""
    program = f"""
        from pathlib import Path
        from tests.unit.tables.test_runner import kill_jobs, run
        folder = Path({str(folder)!r})
        run(folder, kill_jobs(folder))
    """
    runner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        # Where the tests themselves run in the background, they ignore it, and so would the runner.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    second = kill_jobs(folder)[1]
    deadline = time.time() + 60
    while not second.run_folder.started:
        assert time.time() < deadline and runner.poll() is None
        time.sleep(0.05)
    return runner


def kill_jobs(folder):
    return [make_job(folder, "a"), make_job(folder, "b", train_s=3, needs=["a"]), make_job(folder, "c", needs=["b"])]


def test_a_killed_runner_does_the_rest_when_started_again(tmp_path):
    runner = start_runner(tmp_path)
    runner.kill()
    runner.wait()
    jobs = kill_jobs(tmp_path)
    assert [job.finished for job in jobs] == [True, False, False]
    assert run(tmp_path, jobs) == []
    # The second job outlived its runner and was waited for; a second process beside it would have started twice.
    assert [len(starts(job)) for job in jobs] == [1, 1, 1]


def test_an_interrupted_runner_ends_its_jobs(tmp_path):
    runner = start_runner(tmp_path)
    runner.send_signal(signal.SIGINT)
    assert runner.wait() != 0
    jobs = kill_jobs(tmp_path)
    pid = int(starts(jobs[1])[0].split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert [job.finished for job in jobs] == [True, False, False]
    assert run(tmp_path, jobs) == []
    assert [len(starts(job)) for job in jobs] == [1, 2, 1]


def test_submitit_runs_jobs(tmp_path):
    jobs = [
        make_job(tmp_path, "teacher"),
        make_job(tmp_path, "cts", needs=["teacher"]),
        make_job(tmp_path, "ft", status=2),
    ]
    failures = run_jobs(jobs, SlurmPool(tmp_path, options={"cluster": "local", "time": "5"}), tmp_path)
    assert [(failure.job.name, failure.reason) for failure in failures] == [("ft", "ended with status 2")]
    assert jobs[1].finished and times(jobs[0])[1] <= times(jobs[1])[0]
    assert "last words of ft" in failures[0].describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "gpu"}, "--slurm needs the time"),
        ({"time": "soon"}, "--slurm time=soon: expected minutes"),
        ({"time": "5", "cluster": "local", "gpu": "1"}, "Unknown argument 'gpu'"),
        ({"time": "5", "nodes": "2"}, "--slurm nodes=2: a job of a table runs on one node, with as many --processes"),
        ({"time": "5", "cluster": "moon"}, "doesn't know any executor named moon"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_sentence(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        SlurmPool(tmp_path, options=options)


def test_submitit_is_needed_for_slurm_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"--slurm needs submitit.* -m pip install -e '.*\[slurm\]'"):
        SlurmPool(tmp_path, options={"time": "5"})
    LocalPool(tmp_path)
