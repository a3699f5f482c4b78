"""Fingerprints of files and folders."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import walk_files
from ser_ts_lobes.fingerprint import fingerprint_files


def test_links_are_followed_but_not_in_circles(tmp_path):
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    for folder in (corpus, elsewhere):
        folder.mkdir()
        (folder / "a.wav").write_text("one")
    before = fingerprint_files([corpus])
    (corpus / "linked").symlink_to(elsewhere)
    (corpus / "here").symlink_to(".")
    (elsewhere / "up").symlink_to(tmp_path)
    (corpus / "nowhere.wav").symlink_to("nowhere")
    (corpus / "itself.wav").symlink_to("itself.wav")
    names = {name: status and status.st_size for name, status in walk_files(corpus)}
    assert names["a.wav"] == names["linked/a.wav"] == 3
    assert names["nowhere.wav"] is names["itself.wav"] is None
    assert all(name.count("/") < 5 for name in names)
    assert fingerprint_files([corpus]) != before


def test_a_file_name_that_is_not_utf_8(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.wav")).write_text("one")
    with pytest.raises(InputError, match=r"has a file whose name is not UTF-8, b'\\xe9\.wav'\. Rename it"):
        fingerprint_files([tmp_path])


def test_fingerprint_of_several_folders(tmp_path):
    described = []
    for name in ("Audios", "Transcripts"):
        (tmp_path / name).mkdir()
        for file in ("b", "a"):
            (tmp_path / name / file).write_text(name)
            os.utime(tmp_path / name / file, ns=(0, 5))
        described.append([name, [f"{file}/({len(name)}, 5)" for file in ("a", "b")]])
    text = '{"release": "2.0"}' + "".join(map(json.dumps, described))
    folders = [tmp_path / name for name, _ in described]
    assert fingerprint_files(folders, release="2.0") == hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(InputError, match="nowhere does not exist"):
        fingerprint_files([*folders, tmp_path / "nowhere"])


def test_fingerprint_notices_every_change(tmp_path):
    folder, label_file = tmp_path / "Audios", tmp_path / "labels.csv"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.wav").write_text("one")
    (folder / "deep" / "b.wav").write_text("two")
    label_file.write_text("x")

    def fingerprint(**options):
        return fingerprint_files([label_file, folder], **options)

    before = fingerprint()
    os.utime(label_file, (1, 1))
    assert fingerprint() == before  # a label file counts with its content
    os.utime(folder / "a.wav", ns=(1, (folder / "a.wav").stat().st_mtime_ns))
    assert fingerprint() == before  # that somebody has heard it
    assert fingerprint(seed=1, folder="f") == fingerprint(folder="f", seed=1)
    seen = {before, fingerprint(seed=1), fingerprint(seed=2)}
    label_file.write_text("y")
    seen.add(fingerprint())
    os.utime(folder / "deep" / "b.wav", (1, 1))
    seen.add(fingerprint())
    (folder / "a.wav").rename(folder / "c.wav")
    seen.add(fingerprint())
    (folder / "c.wav").unlink()
    seen.add(fingerprint())
    assert len(seen) == 7
    with pytest.raises(InputError, match="nowhere does not exist"):
        fingerprint_files([tmp_path / "nowhere"])
