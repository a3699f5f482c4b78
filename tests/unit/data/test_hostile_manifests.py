"""Manifests that were damaged, or that people and their programs wrote: read rightly, or refused in a sentence."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER
from ser_ts_lobes.data.manifests import COLUMNS, SIDECAR, Utterance, is_prepared, read_manifest, write_manifests
from ser_ts_lobes.errors import InputError
from tests.hostile import changed_json, changed_tables, damaged, is_a_sentence, read_or_refused, rearranged, written

TABLE = [
    list(COLUMNS),
    ["a", "1.5", "$data_root/a.wav", "s1", "Female", "1.0", "2.5", "7.0", "well, she said", "N"],
    ["b", "0.25", "/elsewhere/b.wav", "s2", "Male", "4", "4.5", "1e0", "", ""],
    ["é c", "30", "$data_root/below/c.flac", "Unknown", "", "6", "5", "4", 'a "quoted" word', "A"],
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "train.csv"


def read(path, content):
    """Read a person's manifest."""
    return read_or_refused(lambda path: read_manifest(path, "/corpus"), path, content)


@given(st.data())
def test_what_says_the_same_is_read_as_the_same(path, data):
    sound = read(
        path, "\n".join(",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in TABLE).encode()
    )
    same = read(path, data.draw(written(data.draw(rearranged(TABLE)))))
    assert [{key: row[key] for key in row if key != "notes"} for row in same.utterances.values()] == list(
        sound.utterances.values()
    )
    assert list(same.utterances) == ["a", "b", "é c"] and same.missing_transcripts == {"b"}


def unlabelled(row):
    return not any(row[name] for name in DIMENSIONS)


@given(st.data())
def test_changed_cells_are_read_as_they_stand_or_refused(path, data):
    table = data.draw(changed_tables(TABLE))
    manifest = read(path, data.draw(written(table)))
    if manifest is None:
        assert table != TABLE
        return
    header, *rows = table
    rows = [dict(zip(header, row, strict=True)) for row in rows if row]
    assert len(manifest.utterances) == len(rows)
    for row, found in zip(rows, manifest.utterances.items(), strict=True):
        id, found = found
        assert id == row["ID"].strip()
        assert found["duration"] == float(row["duration"]) and 0 < found["duration"] < math.inf
        for name in DIMENSIONS:
            assert math.isnan(found[name]) if unlabelled(row) else found[name] == float(row[name])
        assert found["transcript"].strip() == row["transcript"].strip()
        assert found["spk_id"] == UNKNOWN_SPEAKER or found["spk_id"] == " ".join(row["spk_id"].split())
        assert found["wav"].startswith("/")
    assert all(map(unlabelled, rows)) or not any(map(unlabelled, rows))


@given(st.data())
@example(None).via("nothing is damaged")
def test_damaged_bytes_are_refused_or_read(path, data):
    content = "\r\n".join(",".join(row) for row in TABLE[:3]).encode()
    read(path, content if data is None else data.draw(damaged(content)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Give a prepared folder: what its files hold, and what is read."""
    folder = tmp_path_factory.mktemp("prepared")
    rows = [
        Utterance(f"u{i}", 1.5 + i, f"/corpus/u{i}.wav", f"s{i}", "F", (1.0, 2.0, 3.0 + i), ["yes", None][i % 2], "N")
        for i in range(4)
    ]
    path = write_manifests(folder, {"train": rows}, "/corpus", "inputs", (1.0, 7.0))["train"]
    return folder, path.read_bytes(), (folder / SIDECAR).read_bytes(), asdict(read_manifest(path))


def use(prepared, csv=None, sidecar=None):
    """Read a prepared folder in which a file is another one: it is refused, or what it was."""
    folder, *files, sound = prepared
    for name, now, before in zip(("train.csv", SIDECAR), (csv, sidecar), files, strict=True):
        (folder / name).write_bytes(before if now is None else now)
    try:
        manifest = read_manifest(folder / "train.csv")
    except InputError as error:
        assert is_a_sentence(error) and str(folder) in str(error)
        assert not is_prepared(folder, "inputs")
        return
    assert repr(asdict(manifest)) == repr(sound)  # not ==, for NaN


@given(st.data())
def test_a_damaged_manifest_of_a_prepared_corpus_is_refused(prepared, data):
    use(prepared, csv=data.draw(damaged(prepared[1])))


@given(st.data())
def test_a_damaged_sidecar_is_refused(prepared, data):
    use(prepared, sidecar=data.draw(damaged(prepared[2])))


@given(changes=st.data(), sealed=st.booleans())
def test_any_value_anywhere_in_a_sidecar_is_refused_or_of_no_effect(prepared, changes, sealed):
    sidecar = json.loads(prepared[2])
    if not sealed:  # as an earlier version wrote it
        del sidecar["sha256"]
    sidecar = changes.draw(changed_json(sidecar))
    folder, csv, *_ = prepared
    (folder / "train.csv").write_bytes(csv)
    (folder / SIDECAR).write_text(json.dumps(sidecar))
    try:
        read_manifest(folder / "train.csv")
    except InputError as error:
        assert is_a_sentence(error) and str(folder) in str(error)
    is_prepared(folder, "inputs")
