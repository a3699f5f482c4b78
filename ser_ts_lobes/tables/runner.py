"""Run the jobs of a plan, several at a time, on this machine or on a Slurm cluster."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ser_ts_lobes.errors import InputError, needs_extra
from ser_ts_lobes.experiment import LOCK_FILE, LOCK_VARIABLE
from ser_ts_lobes.files import sign_lock, try_lock

if TYPE_CHECKING:
    import submitit

    from ser_ts_lobes.tables.plan import Job

_POLL_S = 0.5
_TAIL_LINES = 8


class JobProcess:
    """A job's script as a process of this machine.

    A lock in the run's folder, which the script inherits, keeps two processes from one run. A script that outlives
    its runner (which was killed, or lost its terminal) is waited for; what it finishes isn't run again.

    Parameters
    ----------
    job
        What to run.
    log
        The file that its output is added to.
    environment
        Variables that it gets besides this process's.
    """

    def __init__(self, job: "Job", log: Path, environment: dict[str, str] | None = None) -> None:
        self.job, self.log, self.environment = job, log, environment or {}
        job.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(job.folder / LOCK_FILE, "a+")  # closed when the job is done
        self._process: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self.done()

    def done(self) -> bool:
        """Go on as far as possible without waiting; say whether the job has ended."""
        if self._process is None and self._status is None and try_lock(self._lock):
            if self.job.finished:  # by the process that had the lock
                self._end(0)
            else:
                self._start()
        elif self._process is not None and self._process.poll() is not None:
            self._end(self._process.returncode)
        return self._status is not None

    def result(self) -> int:
        """Return the exit status of a job that has ended."""
        assert self._status is not None
        return self._status

    def cancel(self) -> None:
        """End the script, if it runs, as Ctrl-C would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._end(self._process.wait())

    def _start(self):
        with open(self.log, "a", encoding="utf-8") as output:
            output.write(f"$ cd {self.job.recipe} && {shlex.join(self.job.command)}\n")
            output.flush()
            self._process = subprocess.Popen(
                self.job.command,
                cwd=self.job.recipe,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, LOCK_VARIABLE: self._lock.name},
                pass_fds=[self._lock.fileno()],
            )
        sign_lock(self._lock)

    def _end(self, status):
        self._status, self._process = status, None
        self._lock.close()


def run_to_end(job: "Job", log: Path) -> int:
    """Run a job and wait; what a cluster's node does.

    Parameters
    ----------
    job
        What to run.
    log
        The file that its output is added to.

    Returns
    -------
    int
        Exit status.
    """
    process = JobProcess(job, log)
    while not process.done():
        time.sleep(_POLL_S)
    return process.result()


class LocalPool:
    """Runs jobs on this machine: one on each GPU, or on so many as it has processes; or a number of them.

    Parameters
    ----------
    logs
        Folder of the jobs' output.
    jobs
        Jobs at a time, if there are no `gpus`.
    gpus
        As many of them as a job has processes are ``CUDA_VISIBLE_DEVICES`` for one job at a time.
    environment
        Variables that all jobs get besides this process's.
    processes
        Of each job.

    Raises
    ------
    InputError
        If some of the GPUs would be too few for a job.
    """

    def __init__(
        self,
        logs: Path,
        jobs: int = 1,
        gpus: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        processes: int = 1,
    ) -> None:
        if len(gpus) % processes:
            raise InputError(f"--gpus: {len(gpus)} GPUs are no multiple of {processes}, the --processes of each job.")
        self._logs = logs
        groups = [",".join(gpus[start : start + processes]) for start in range(0, len(gpus), processes)]
        environments = [{"CUDA_VISIBLE_DEVICES": group} for group in groups] or [{} for _ in range(jobs)]
        if (n_processes := len(environments) * processes) > 1 and "OMP_NUM_THREADS" not in os.environ:
            threads = max(1, (os.cpu_count() or 1) // n_processes)
            environments = [{"OMP_NUM_THREADS": str(threads), **variables} for variables in environments]
        self._slots: list[tuple[dict[str, str], list[JobProcess]]] = [
            ({**variables, **(environment or {})}, []) for variables in environments
        ]

    def has_room(self) -> bool:
        """Say whether another job can start."""
        return any(_is_free(used) for _, used in self._slots)

    def start(self, job: "Job") -> JobProcess:
        """Start a job where there is room; return its process."""
        environment, used = next(slot for slot in self._slots if _is_free(slot[1]))
        used[:] = [JobProcess(job, log_path(self._logs, job), environment)]
        return used[0]


def _is_free(used):
    return all(process.done() for process in used)


class SlurmPool:
    """Runs jobs on a Slurm cluster, through submitit.

    Parameters
    ----------
    logs
        Folder of the jobs' output, on a file system that the nodes share.
    jobs
        Jobs submitted at a time; None for no limit.
    options
        sbatch's options by the names of submitit's ``SlurmExecutor`` (``partition``, ``time``, ``gpus_per_node``,
        ``cpus_per_task``, ``mem``, ``account``, ...). ``cluster=local`` runs the jobs on this machine, to try it.

    Raises
    ------
    InputError
        If submitit or Slurm isn't there, an option isn't known, or a job would get several nodes.
    """

    def __init__(self, logs: Path, jobs: int | None = None, options: dict[str, str] | None = None) -> None:
        try:
            import submitit
        except ImportError as error:
            raise needs_extra("--slurm", "submitit", "slurm") from error
        options = dict(options or {})
        cluster = options.pop("cluster", "slurm")
        if options.get("nodes", "1") != "1":
            raise InputError(
                f"--slurm nodes={options['nodes']}: a job of a table runs on one node, with as many --processes as it "
                "has GPUs; docs/tables.md says how to train on several."
            )
        if "time" not in options:
            raise InputError("--slurm needs the time that a job may take, such as time=24:00:00.")
        parameters = {"timeout_min": _minutes(options.pop("time")), "name": "ser-ts"}
        parameters |= {f"slurm_{key}": int(value) if value.isdecimal() else value for key, value in options.items()}
        try:
            self._executor = submitit.AutoExecutor(logs / "slurm", cluster=cluster)
            self._executor.update_parameters(**parameters)
        except (NameError, ValueError, RuntimeError) as error:
            raise InputError(f"--slurm: {str(error).splitlines()[0]}") from error
        self._logs, self._limit = logs, jobs
        self._jobs: list[submitit.Job[int]] = []

    def has_room(self) -> bool:
        """Say whether another job can be submitted."""
        self._jobs = [job for job in self._jobs if not job.done()]
        return self._limit is None or len(self._jobs) < self._limit

    def start(self, job: "Job") -> "submitit.Job[int]":
        """Submit a job; return submitit's."""
        submitted = self._executor.submit(run_to_end, job, log_path(self._logs, job))
        self._jobs.append(submitted)
        return submitted


def _minutes(text):
    """Read a time as sbatch does.

    Example
    -------
    >>> _minutes("90"), _minutes("24:00:00"), _minutes("1-12")
    (90, 1440, 2160)
    """
    days, dash, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        days = int(days) if dash else 0
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3:
        raise InputError(f"--slurm time={text}: expected minutes, hours:minutes:seconds or days-hours.")
    if len(parts) < 3:
        parts = [*parts, 0, 0][:3] if dash else [0, *parts, 0][:3]
    hours, minutes, seconds = parts
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


@dataclass
class Failure:
    """A job that did not succeed.

    Attributes
    ----------
    job
        The job.
    reason
        Why it did not succeed, in a few words.
    log
        Its output; None for a job that was not started.
    """

    job: "Job"
    reason: str
    log: Path | None = None

    def describe(self) -> str:
        """Say what happened, with the sentence that says why, or else the last lines of the output.

        Returns
        -------
        str
            Several lines.
        """
        if self.log is None or not self.log.is_file():
            return f"{self.job.name}: {self.reason}"
        *_, last_run = self.log.read_text(encoding="utf-8", errors="replace").split("\n$ cd ")
        lines = last_run.splitlines()
        # Of several processes each may say it; and torchrun has much to say after them.
        tail = list(dict.fromkeys(line for line in lines if line.startswith("error: "))) or lines[-_TAIL_LINES:]
        return "\n".join([f"{self.job.name}: {self.reason}; the end of {self.log}:", *(f"    {line}" for line in tail)])


def log_path(folder: Path, job: "Job") -> Path:
    """Return the file of a job's output."""
    return folder / f"{job.name.replace('/', '_')}.log"


def run_jobs(jobs: "list[Job]", pool: LocalPool | SlurmPool, logs: Path) -> list[Failure]:
    """Run what has not been finished, each job after those that it needs; a failure does not stop the others.

    Of jobs that would make the same manifests or frozen features, one starts alone; the others follow when these are
    there.

    Parameters
    ----------
    jobs
        From `ser_ts_lobes.tables.plan.make_plan`.
    pool
        Where they run.
    logs
        Folder of the jobs' output.

    Returns
    -------
    list[Failure]
        In the order in which they failed; jobs that needed them included.

    Raises
    ------
    KeyboardInterrupt
        When interrupted; the jobs have been ended then.
    """
    waiting = [job for job in jobs if not job.finished]
    total = len(waiting)
    started: dict[str, float] = {}
    succeeded = {job.name for job in jobs} - {job.name for job in waiting}
    running: list[tuple[Job, JobProcess | submitit.Job[int]]] = []
    told: dict[str, int] = {}
    failures: list[Failure] = []
    print(f"{total} of {len(jobs)} jobs to run; their output: {logs}", flush=True)
    try:
        while waiting or running:
            for job, process in [pair for pair in running if pair[1].done()]:
                running.remove((job, process))
                reason = _why_failed(job, process)
                minutes = (time.monotonic() - started[job.name]) / 60
                print(f"  {job.name}: {reason or 'finished'} after {minutes:.1f} min", flush=True)
                if reason:
                    failures.append(Failure(job, reason, log_path(logs, job)))
                else:
                    succeeded.add(job.name)
            for job, _ in running:
                _tell_progress(job, told)
            failed = {failure.job.name for failure in failures}
            for job in list(waiting):
                if failed & set(job.needs):
                    waiting.remove(job)
                    failures.append(Failure(job, f"not run, for it needs {', '.join(sorted(failed & set(job.needs)))}"))
                    failed.add(job.name)
                elif succeeded >= set(job.needs) and _may_share(job, running, jobs) and pool.has_room():
                    waiting.remove(job)
                    started[job.name] = time.monotonic()
                    running.append((job, pool.start(job)))
                    print(f"[{len(started)}/{total}] {job.name}: {job.script} started", flush=True)
            if running:
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        for _, process in running:
            process.cancel()
        raise
    return failures


def raise_failures(failures: list[Failure], n_jobs: int) -> None:
    """Say which jobs have not succeeded, and why, if there are any.

    Parameters
    ----------
    failures
        From `run_jobs`.
    n_jobs
        Number of jobs that were to run.

    Raises
    ------
    InputError
        With what `Failure.describe` says of each.
    """
    if failures:
        raise _JobsFailed(
            f"{len(failures)} of {n_jobs} jobs have not succeeded. Mend the cause and give the same command again: "
            "what is finished is kept.\n\n" + "\n\n".join(failure.describe() for failure in failures)
        )


class _JobsFailed(InputError):
    """Has a paragraph for each job."""

    __str__ = Exception.__str__


def _tell_progress(job, told):
    """Print how far a job's training has come, at each tenth of it."""
    done, total = job.epochs or (0, 1)
    tenths = 10 * done // total
    if done < total and tenths > told.get(job.name, 0):
        print(f"  {job.name}: epoch {done} of {total}", flush=True)
        told[job.name] = tenths


def _may_share(job, running, jobs):
    """Say whether nobody is just making what a job would make too."""
    return all(
        any(other.shares[shared].is_file() for other in jobs if shared in other.shares)
        or not any(shared in other.shares for other, _ in running)
        for shared in job.shares
    )


def _why_failed(job, process):
    """Say why a job that has ended did not succeed; an empty string if it did."""
    try:
        status = process.result()
    except Exception as error:  # whatever a cluster does to a job (time, memory, a node lost) is that job's failure
        return " ".join(str(error).split())[:300]
    if status:
        return f"ended with status {status}"
    return "" if job.finished else "ended without its results"
