"""Programs that are killed, or lose what they need: they say so, leave nothing half-written, and go on afterwards."""

import functools
import itertools
import os
import re
import signal
import subprocess
import sys

import pytest

from ser_ts_lobes.files import sign_lock, try_lock
from tools.endurance import SEED, Failed, Interrupter, Program, contents, differences, half_written


@pytest.fixture(scope="module")
def interrupter(tmp_path_factory):
    return Interrupter(tmp_path_factory.mktemp("interruptions"), seed=1)


@pytest.mark.parametrize(("name", "kills"), [("teacher", 1), ("targets", 1), ("warm start", 1), ("transcription", 2)])
def test_a_killed_program_ends_as_if_nothing_had_been(interrupter, name, kills):
    interrupter.interrupt(name, kills)
    assert interrupter.tallies[name].problems == []


def fail(interrupter, program, before=None):
    """Run a program, which fails; return the sentence that it ends with."""
    with pytest.raises(Failed) as failed:
        interrupter.run(program, before=before)
    output = str(failed.value)
    assert "Traceback" not in output, output
    return output.strip().splitlines()[-1]


@pytest.fixture
def small_disk(interrupter, teacher_left):
    """Give a function that changes the disk of its own, at first of 8 KiB, that the folder of results is."""

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(interrupter.work)]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode

    interrupter.restore(None)
    if sys.platform != "linux" or mount("size=8k"):
        pytest.skip("needs to mount a small disk (tmpfs), which root may")
    yield lambda *options: mount("remount", *options)
    subprocess.run(["umount", str(interrupter.work)], check=True)


@pytest.fixture(scope="module")
def teacher_left(interrupter):
    """Give what a teacher leaves that nothing disturbs."""
    return interrupter.undisturbed("teacher")


def test_a_full_disk_is_said_and_once_there_is_room_it_goes_on(interrupter, small_disk, teacher_left):
    program = interrupter.programs["teacher"]
    for size in ("8k", "400k", "2m"):  # within the settings, the features, the first checkpoint
        small_disk(f"size={size}")
        assert "can't be read or written (No space left on device): make room there" in fail(interrupter, program)
        assert half_written(interrupter.work, teacher_left) == []
    small_disk("size=100m")
    interrupter.run(program)
    assert differences(teacher_left, contents(interrupter.work)) == []


def test_a_folder_that_may_only_be_read_is_said(interrupter, small_disk):
    small_disk("ro")
    said = fail(interrupter, interrupter.programs["teacher"])
    where = f"{interrupter.work}/teacher can't be read or written (Read-only file system)"
    assert said.startswith(f"error: {where}: let this program write there, or name another folder")


def test_a_second_program_in_a_run_is_told(interrupter, teacher_left):
    interrupter.restore("teacher")
    run = interrupter.work / "teacher" / str(SEED)
    with open(run / ".lock", "a") as lock:
        assert try_lock(lock)
        sign_lock(lock)
        said = fail(interrupter, interrupter.programs["teacher"])
    assert said.startswith(f"error: {run} is in use by ") and f"process {os.getpid()} on " in said
    assert differences(teacher_left, contents(interrupter.work)) == []


@pytest.fixture(scope="module")
def listener(interrupter):
    """Give a program that hears the corpus in each epoch, by a process that reads, and what it leaves."""
    command = [option.replace("num_workers=0", "num_workers=1") for option in interrupter.programs["features"].command]
    program = Program((*command, "--feature_folder=null"))
    interrupter.restore(None)
    interrupter.run(program)
    return program, contents(interrupter.work)


def lose(corpus):
    """In a program: take the corpus away when the first checkpoint has been saved."""

    def watch(event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith("CKPT.yaml") and corpus.exists():
            corpus.rename(corpus.with_name("gone"))

    sys.addaudithook(watch)


def die_while_reading():
    """In a program: kill the process that reads, in the middle of an epoch."""
    from ser_ts_lobes.training import datasets

    count, program, read = itertools.count(), os.getpid(), datasets.read_audio

    def read_audio(path):
        if next(count) == 40 and os.getpid() != program:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path)

    datasets.read_audio = read_audio


def test_a_corpus_that_vanishes_in_an_epoch_is_said_and_once_it_is_back_it_goes_on(interrupter, listener):
    program, left = listener
    corpus = interrupter.material / "msp" / "Audios"
    interrupter.restore(None)
    said = fail(interrupter, program, before=functools.partial(lose, corpus))
    assert re.match(rf"error: The audio file {corpus}/(.*)\.wav of \1 is gone: bring back the corpus", said)
    corpus.with_name("gone").rename(corpus)
    assert [path.parent.name[:4] for path in interrupter.work.rglob("CKPT.yaml")] == ["CKPT"]
    interrupter.run(program)
    assert differences(left, contents(interrupter.work)) == []


def test_a_process_that_reads_and_dies_is_said_and_the_program_goes_on(interrupter, listener):
    program, left = listener
    interrupter.restore(None)
    said = fail(interrupter, program, before=die_while_reading)
    assert said.startswith("error: a process that read the data has died (DataLoader worker (pid")
    interrupter.run(program)
    assert differences(left, contents(interrupter.work)) == []
