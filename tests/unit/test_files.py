import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from ser_ts_lobes import files
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import (
    locked,
    map_files,
    remove_leftovers,
    replacing,
    share_lock,
    temporary_folder,
    temporary_path,
    try_lock,
    walk_files,
)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_many_files_come_in_their_order(count):
    assert map_files(str, range(count)) == [str(index) for index in range(count)]


@pytest.mark.parametrize(("seconds_a_file", "n_threads"), [(1e-5, 1), (1e-3, 2)])
def test_threads_are_for_files_that_take_long(monkeypatch, seconds_a_file, n_threads):
    threads, clock = [], iter([0.0, 256 * seconds_a_file])
    monkeypatch.setattr(files.time, "perf_counter", lambda: next(clock))
    map_files(lambda _: threads.append(threading.current_thread() is threading.main_thread()), range(512))
    assert len(set(threads)) == n_threads


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


class SafetensorError(Exception):
    """As of the library, whose real ones need a full disk."""


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2**30),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), 2**30),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 51840 vs 51792"), 2**20 - 1),
    ],
    ids=["Python", "safetensors", "torch"],
)
def test_a_full_disk_is_an_error_of_the_file_that_was_wanted(tmp_path, monkeypatch, error, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(OSError) as raised, replacing(tmp_path / "targets.safetensors") as temporary:
        temporary.write_text("half of it")
        raise error
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "targets.safetensors"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [OSError("odd"), FileNotFoundError(2, "No such file", "b.csv"), RuntimeError("a bug")]
)
def test_another_error_stays_as_it_is(tmp_path, monkeypatch, error):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    before = vars(error) | {"filename": getattr(error, "filename", None)}
    with pytest.raises(type(error)) as raised, replacing(tmp_path / "a.csv"):
        raise error
    assert raised.value is error and vars(error) | {"filename": getattr(error, "filename", None)} == before


def test_a_folder_that_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as gone:
        gone.setattr(os, "getpid", lambda: 999_999_999)
        left = temporary_path(tmp_path / "config.json")
    left.mkdir()
    (left / "model.bin").touch()
    with temporary_folder(tmp_path / "config.json") as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name] != [left.name]
    assert not list(tmp_path.iterdir())


def test_whoever_may_read_a_new_file_may_read_what_is_written(tmp_path):
    (tmp_path / "new").touch()
    with replacing(tmp_path / "targets.safetensors") as temporary:
        save_file({"a": np.zeros(2)}, temporary)
        assert temporary.stat().st_mode != (tmp_path / "new").stat().st_mode  # or else this is needed no more
    assert (tmp_path / "targets.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.write_text("half of it")
        for name in (".lock", "notes.tmp", "metrics.json"):
            (tmp_path / name).touch()
        remove_leftovers(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "metrics.json", "notes.tmp"]


def test_what_a_killed_process_left_of_a_file_is_removed_when_it_is_written_again(tmp_path):
    path = tmp_path / "a[1].csv"
    program = f"""
from ser_ts_lobes.files import replacing
with replacing({str(path)!r}) as temporary:
    temporary.write_text("half of it")
    print()
    input()
"""
    writers = [subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1) for _ in range(2)]
    for writer in writers:
        writer.stdout.readline()
    writers[0].kill()
    writers[0].wait()
    others = [".a[1].csv.elsewhere-999999999.tmp", ".b.csv.999999999.tmp"]  # another machine's, another file's
    for name in others:
        (tmp_path / name).touch()
    assert len(list(tmp_path.iterdir())) == 4
    with replacing(path) as temporary:
        temporary.write_text("all of it")
    left = {entry.name for entry in tmp_path.iterdir()} - {path.name, *others}
    assert len(left) == 1 and left.pop().endswith(f"-{writers[1].pid}.tmp")  # which still writes
    writers[1].communicate(b"\n")
    assert path.read_text() == "half of it"


def test_a_folder_is_listed_once_however_many_files_are_written(tmp_path, monkeypatch):
    listed = []
    monkeypatch.setattr(files, "_temporaries", lambda folder: listed.append(folder) or [])
    for name in "abc":
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("all of it")
    assert listed == [str(tmp_path)]


def test_what_may_be_a_process_is_left_alone(monkeypatch):
    assert files._is_another(str(os.getppid())) and files._is_another("none")
    assert not files._is_another(str(os.getpid())) and not files._is_another("9" * 30)

    def kill(process, signal):
        raise PermissionError  # somebody else's

    monkeypatch.setattr(os, "kill", kill)
    assert files._is_another("12")


def test_a_shared_lock_keeps_out_who_would_be_alone_until_all_have_let_it_go(tmp_path):
    path = tmp_path / ".in_use"
    first, second = share_lock(path), share_lock(path)
    with open(path, "rb") as file:
        for holder in (first, second):
            assert not try_lock(file)
            holder.close()
        assert try_lock(file)


def test_a_lock_is_shared_in_a_folder_that_is_only_read(tmp_path, monkeypatch):
    (tmp_path / ".in_use").touch()
    opened = []
    os_open = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode: opened.append(flags) or os_open(path, flags, mode))
    share_lock(tmp_path / ".in_use").close()
    assert [flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC) for flags in opened] == [0]


def test_where_there_are_no_locks_none_is_shared(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    share_lock(tmp_path / ".in_use").close()


def test_a_lock_ends_with_the_process_that_has_it(tmp_path):
    path = tmp_path / ".lock"
    program = f"from ser_ts_lobes.files import locked\nwith locked({str(path)!r}):\n    print(); input()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder, open(path, "a") as file:
        holder.stdout.readline()
        assert not try_lock(file)
        assert path.read_text().startswith(f"process {holder.pid} on ")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert try_lock(file)


def test_a_lock_ends_with_its_block_though_a_worker_lives_on(tmp_path):
    with locked(tmp_path / ".lock"):
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
    with open(tmp_path / ".lock", "a") as file:
        assert try_lock(file)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


def test_a_file_system_without_locks_is_said_in_one_sentence(tmp_path, monkeypatch, caplog):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.INFO), locked(tmp_path / ".lock") as alone:
        assert not alone
    [message] = caplog.messages
    assert f"{tmp_path} has no locks (No locks available): do not start two programs" in message


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError) as error:
        list(walk_files(tmp_path / "nowhere"))
    assert str(error.value) == f"{tmp_path / 'nowhere'} can't be read: No such file or directory."
