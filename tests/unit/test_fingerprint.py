"""Fingerprints of files and folders."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from ser_ts_lobes import fingerprint as fingerprint_module
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import walk_files
from ser_ts_lobes.fingerprint import fingerprint, fingerprint_file, fingerprint_files, fingerprint_tensors


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_fingerprint_is_of_names_values_and_this_version(monkeypatch):
    monkeypatch.setattr(fingerprint_module, "__version__", "1.2")
    first = fingerprint(manifest="ab12", layers=[1, 2], frozen=None)
    # What earlier runs have kept on disk is found by it.
    assert first == sha256(b'{"code": "1.2", "frozen": null, "layers": [1, 2], "manifest": "ab12"}')
    assert first == fingerprint(frozen=None, layers=[1, 2], manifest="ab12")
    assert first != fingerprint(manifest="ab12", layers=[1, 2], learning=None)
    monkeypatch.setattr(fingerprint_module, "__version__", "1.3")
    assert first != fingerprint(manifest="ab12", layers=[1, 2], frozen=None)


def test_a_fingerprint_of_tensors_is_of_names_shapes_types_and_bits():
    b = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    tensors = {"b": b, "a": torch.tensor(7), "c": torch.zeros(0, 3)}
    parts = [b"a () torch.int64\n", b"\7" + bytes(7), b"b (2, 3) torch.float32\n", b.numpy().tobytes()]
    first = fingerprint_tensors(tensors)
    assert first == sha256(b"".join(parts) + b"c (0, 3) torch.float32\n")
    same = [
        dict(reversed(tensors.items())),
        tensors | {"b": b.T.contiguous().T},  # laid out otherwise in memory
        tensors | {"b": torch.nn.Parameter(b)},
    ]
    assert {fingerprint_tensors(other) for other in same} == {first}
    others = [
        {"d": b, "a": tensors["a"], "c": tensors["c"]},
        tensors | {"b": b.reshape(3, 2)},
        tensors | {"b": b.view(torch.int32)},
        tensors | {"b": torch.nextafter(b, torch.tensor(9.0))},
        tensors | {"c": torch.zeros(3, 0)},
    ]
    assert len({first, *map(fingerprint_tensors, others)}) == 1 + len(others)


@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3)])
def test_numbers_that_numpy_lacks_have_fingerprints_of_their_bits(shape):
    numbers = torch.randn(shape).bfloat16()
    bits = numbers.view(torch.int16)
    first = fingerprint_tensors({"a": numbers})
    assert first == sha256(f"a {shape} torch.bfloat16\n".encode() + bits.numpy().tobytes())
    assert first not in (fingerprint_tensors({"a": bits}), fingerprint_tensors({"a": numbers.float()}))


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (5 << 19) + 3])
def test_the_fingerprint_of_a_file_is_what_sha256sum_says(tmp_path, size):
    content = (b"0123456789abcdef!" * (1 + size // 17))[:size]
    (tmp_path / "file").write_bytes(content)
    assert fingerprint_file(tmp_path / "file") == sha256(content)


class Pool:
    """Stands for `ProcessPoolExecutor`, and remembers how many processes were asked for."""

    asked: list[int] = []

    def __init__(self, max_workers):
        self.asked.append(max_workers)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def map(self, function, inputs):
        return map(function, inputs)


@pytest.mark.parametrize(
    ("folders", "processors", "asked"), [(1, 4, []), (2, 4, [2]), (3, 2, [2]), (2, None, [1]), (0, 4, [])]
)
def test_folders_are_read_side_by_side_by_no_more_processes_than_help(
    tmp_path, monkeypatch, folders, processors, asked
):
    monkeypatch.setattr(fingerprint_module, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(Pool, "asked", [])
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    paths = [tmp_path / str(number) for number in range(folders)]
    for path in paths:
        path.mkdir()
    text = "{}" + "".join(json.dumps([path.name, []]) for path in paths)
    assert fingerprint_files(paths) == sha256(text.encode())
    assert Pool.asked == asked


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
    assert fingerprint_files(folders, release="2.0") == sha256(text.encode())
    with pytest.raises(InputError, match="nowhere does not exist"):
        fingerprint_files([*folders, tmp_path / "nowhere"])


def test_fingerprint_notices_every_change(tmp_path):
    folder, label_file = tmp_path / "Audios", tmp_path / "labels.csv"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.wav").write_text("one")
    (folder / "deep" / "b.wav").write_text("two")
    label_file.write_text("x")

    def digest(**options):
        return fingerprint_files([label_file, folder], **options)

    before = digest()
    os.utime(label_file, (1, 1))
    assert digest() == before  # a label file counts with its content
    os.utime(folder / "a.wav", ns=(1, (folder / "a.wav").stat().st_mtime_ns))
    assert digest() == before  # that somebody has heard it
    assert digest(seed=1, folder="f") == digest(folder="f", seed=1)
    seen = {before, digest(seed=1), digest(seed=2)}
    label_file.write_text("y")
    seen.add(digest())
    os.utime(folder / "deep" / "b.wav", (1, 1))
    seen.add(digest())
    (folder / "a.wav").rename(folder / "c.wav")
    seen.add(digest())
    (folder / "c.wav").unlink()
    seen.add(digest())
    assert len(seen) == 7
    with pytest.raises(InputError, match="nowhere does not exist"):
        fingerprint_files([tmp_path / "nowhere"])
