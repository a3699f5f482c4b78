import errno
import json
import logging
import os
import time
from hashlib import sha256

import pytest

from ser_ts_lobes import file_digests
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.file_digests import FileDigests


@pytest.fixture
def settled(monkeypatch):
    """Take every file for one that was changed long ago."""
    monkeypatch.setattr(file_digests, "_STEP_NS", -(10**12))


@pytest.fixture
def read(monkeypatch):
    """Give a list of the files that are read."""
    read = []
    fingerprint_file = file_digests.fingerprint_file
    monkeypatch.setattr(file_digests, "fingerprint_file", lambda name: read.append(name) or fingerprint_file(name))
    return read


def write_files(folder, **texts):
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in texts]


def digests_of(*texts):
    return [sha256(text.encode()).hexdigest() for text in texts]


def test_each_file_is_read_once(tmp_path, settled, read, caplog):
    paths = write_files(tmp_path, a="one", b="two", c="one")
    digests = FileDigests(tmp_path / "kept" / "digests.json")
    with caplog.at_level(logging.INFO):
        assert digests.of(paths[:2]) == digests_of("one", "two")
        assert digests.of(paths[::-1] + paths[:1]) == digests_of("one", "two", "one", "one")
        assert digests.of([]) == []
    assert read == paths
    assert caplog.messages == [f"{n} files are read to know them by their content." for n in ("2 of 2", "1 of 3")]
    again = FileDigests(tmp_path / "kept" / "digests.json")
    assert again.of(paths) == digests_of("one", "two", "one") and read == paths


def test_a_file_has_one_name(tmp_path, settled, read, monkeypatch):
    [path] = write_files(tmp_path, a="one")
    FileDigests(tmp_path / "digests.json").of([path])
    monkeypatch.chdir(tmp_path)
    FileDigests("digests.json").of(["a"])
    assert read == [path]


def longer(path):
    status = path.stat()
    path.write_text("other")
    os.utime(path, ns=(0, status.st_mtime_ns))


def same_size_and_date(path):
    status = path.stat()
    time.sleep(0.02)  # a step of the file system's clock
    path.write_text("two")
    os.utime(path, ns=(0, status.st_mtime_ns))


def other_date(path):
    os.utime(path, ns=(0, 5))


@pytest.mark.parametrize("change", [longer, same_size_and_date, other_date])
def test_a_file_that_has_changed_is_read_again(tmp_path, settled, read, change):
    paths = write_files(tmp_path, a="one", b="same")
    digests = FileDigests(tmp_path / "digests.json")
    digests.of(paths)
    change(tmp_path / "a")
    del read[:]
    assert digests.of(paths) == digests_of((tmp_path / "a").read_text(), "same")
    assert read == paths[:1]
    assert FileDigests(tmp_path / "digests.json").of(paths) == digests.of(paths) and read == paths[:1]


@pytest.mark.parametrize(("age_s", "kept"), [(1.9, False), (2.0, False), (2.1, True)])
def test_what_was_changed_just_now_is_not_relied_on(tmp_path, read, monkeypatch, age_s, kept):
    paths = write_files(tmp_path, a="one")
    os.utime(paths[0], ns=(0, 5))  # whatever date it was given
    now_ns = (tmp_path / "a").stat().st_ctime_ns + round(age_s * 1e9)
    monkeypatch.setattr(file_digests.time, "time_ns", lambda: now_ns)
    digests = FileDigests(tmp_path / "digests.json")
    assert digests.of(paths) == digests.of(paths) == digests_of("one")
    assert read == paths * (1 if kept else 2)
    assert (tmp_path / "digests.json").exists() == kept


def test_what_others_have_kept_stays(tmp_path, settled, read):
    paths = write_files(tmp_path, a="one", b="two")
    first, second = FileDigests(tmp_path / "digests.json"), FileDigests(tmp_path / "digests.json")
    first.of(paths[:1])
    second.of(paths[1:])
    assert second.of(paths) == FileDigests(tmp_path / "digests.json").of(paths) == digests_of("one", "two")
    assert read == paths


def test_where_nothing_can_be_kept_files_are_read_again(tmp_path, settled, read, caplog, monkeypatch):
    paths = write_files(tmp_path, a="one")

    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(file_digests, "replacing", refuse)
    digests = FileDigests(tmp_path / "digests.json")
    assert digests.of(paths) == digests.of(paths) == digests_of("one")
    assert read == paths  # known to the process, if not to the next
    assert caplog.messages[-1] == (
        f"{tmp_path / 'digests.json'} can't be written (Read-only file system): the files are read again next time."
    )
    assert FileDigests(tmp_path / "digests.json").of(paths) == digests_of("one") and read == 2 * paths


ENTRY = [3, 1, 1, "0" * 64]


@pytest.mark.parametrize(
    "content",
    [
        '{"a": [3,',
        "[" * 100_000,
        "[]",
        json.dumps({"a": ENTRY, "b": "c"}),
        json.dumps({"a": ENTRY[:3]}),
        json.dumps({"a": [*ENTRY[:3], 5]}),
        json.dumps({"a": [3, 1.5, 1, "0" * 64]}),
        b"\xff",
    ],
    ids=["cut", "deep", "list", "no list", "short", "number", "part of a number", "no text"],
)
def test_a_damaged_side_file_is_made_anew(tmp_path, settled, caplog, content):
    paths = write_files(tmp_path, a="one")
    path = tmp_path / "digests.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.WARNING):
        digests = FileDigests(path)
    assert caplog.messages == [f"{path} is damaged and made anew: all files are read again."]
    assert digests.of(paths) == digests_of("one")
    caplog.clear()
    assert FileDigests(path).of(paths) == digests_of("one") and not caplog.messages


@pytest.mark.parametrize("missing", ["before", "meanwhile"])
def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch, missing):
    [path] = write_files(tmp_path, a="one")
    if missing == "before":
        os.unlink(path)
    else:
        fingerprint_file = file_digests.fingerprint_file
        monkeypatch.setattr(file_digests, "fingerprint_file", lambda name: os.unlink(name) or fingerprint_file(name))
    with pytest.raises(InputError) as error:
        FileDigests(tmp_path / "digests.json").of([path])
    assert str(error.value) == (
        f"{path} can't be read (No such file or directory): restore it, or prepare the corpus again."
    )
