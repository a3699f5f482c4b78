"""Label files that were damaged, or that people's programs wrote: read rightly, or refused in a sentence.

The kinds of damage that ``test_msp_podcast_prepare.py`` knows are tested there against what each has to come to.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_ts_lobes import DIMENSIONS
from tests.fixtures_iemocap import write_iemocap_tree
from tests.fixtures_msp import write_msp_release
from tests.hostile import changed_tables, damaged, read_or_refused, rearranged, written
from tests.unit.test_iemocap_prepare import recipe as iemocap
from tests.unit.test_msp_podcast_prepare import recipe as msp
from tests.unit.test_msp_podcast_prepare import write_text_files
from tests.unit.test_template_prepare import recipe as template


def read(reader, path, content):
    return read_or_refused(reader, path, content, named=path.name)


@st.composite
def rewritten(draw, content):
    """Write lines as other editors do: other ends of lines, a byte order mark, blanks behind."""
    end = draw(st.sampled_from([b"\n", b"\r\n", b" \n", b"\t\r\n"]))
    content = end.join(content.split(b"\n"))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + content


# ------------------------------------------------------------------ IEMOCAP


@pytest.fixture(scope="module")
def dialogue(tmp_path_factory):
    """Give the label file and the transcript of a dialogue, to write elsewhere, and their bytes."""
    tree, folder = write_iemocap_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("hostile")
    session = tree / "Session2" / "dialog"
    files = {}
    for kind in ("EmoEvaluation", "transcriptions"):
        (folder / kind).mkdir()
        files[kind] = (folder / kind / "Ses02F_impro02.txt", (session / kind / "Ses02F_impro02.txt").read_bytes())
    return files


def read_words(path):
    return iemocap.read_transcripts([path])


READERS = {"EmoEvaluation": iemocap.read_evaluations, "transcriptions": read_words}


@given(st.data(), st.sampled_from(sorted(READERS)))
def test_lines_that_end_otherwise_are_read_as_the_same(dialogue, data, kind):
    path, content = dialogue[kind]
    sound = read(READERS[kind], path, content)
    assert sound and read(READERS[kind], path, data.draw(rewritten(content))) == sound


@given(st.data(), st.sampled_from(sorted(READERS)))
def test_damaged_files_of_a_dialogue_are_read_or_refused(dialogue, data, kind):
    path, content = dialogue[kind]
    said = read(READERS[kind], path, data.draw(damaged(content)))
    if kind == "EmoEvaluation" and said is not None:
        low, high = iemocap.RELEASED_RANGE
        for evaluation in said:
            assert evaluation.dialogue == path.stem and evaluation.emotion
            assert all(low <= label <= high for label in evaluation.labels)
        assert len({evaluation.id for evaluation in said}) == len(said) > 0


# ------------------------------------------------------------------ MSP-Podcast


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("releases")
    write_msp_release(folder / "1.11", "1.11")
    return folder / "1.11", write_text_files(folder / "1.6")


LABELS = [(0, "Labels/labels_consensus.csv"), (0, "Labels/labels.txt"), (0, "Partitions.txt"), (1, "Labels/labels.txt")]
LABELS += [(1, "Partitions.txt"), (1, "Speaker_ids.txt")]


@given(st.data(), st.sampled_from(LABELS))
def test_damaged_label_files_of_a_release_are_read_or_refused(releases, data, place):
    number, name = place
    corpus = releases[number]
    sound = (corpus / name).read_bytes()

    def read_all(_):
        files = msp.find_files(corpus)
        return msp.read_entries(files), list(msp.read_blocks(files.ratings))

    try:
        said = read(read_all, corpus / name, data.draw(damaged(sound)))
    finally:
        (corpus / name).write_bytes(sound)
    for entry in said[0] if said else ():
        low, high = msp.LABEL_RANGE
        assert entry.labels is None or all(low <= label <= high for label in entry.labels)
        assert entry.split in (None, *msp.SPLITS.values())


# ------------------------------------------------------------------ anybody's

TABLE = [
    ["file", "speaker", *DIMENSIONS, "transcript", "split"],
    ["a.wav", "anna", "1", "2.5", "7.0", "well, yes", "train"],
    ["below/b.flac", "ben", "4", "4e0", ".5", "", "valid"],
    ["c d.wav", "", "+3", "3.", "3", 'so "what"', "test"],
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "recordings.csv"


@given(st.data())
def test_tables_that_say_the_same_are_read_as_the_same(path, data):
    rows = read(template.read_recordings, path, data.draw(written(data.draw(rearranged(TABLE)))))
    assert [row["file"] for row in rows] == ["a.wav", "below/b.flac", "c d.wav"]
    assert [row["labels"] for row in rows] == [(1, 2.5, 7), (4, 4, 0.5), (3, 3, 3)]
    assert [row["speaker"] for row in rows] == ["anna", "ben", "Unknown"]


@given(st.data())
def test_changed_tables_are_read_as_they_stand_or_refused(path, data):
    table = data.draw(changed_tables(TABLE))
    rows = read(template.read_recordings, path, data.draw(written(table)))
    if rows is None:
        assert table != TABLE
        return
    header, *lines = (row for row in table if row)
    assert len(rows) == len(lines)
    for row, line in zip(rows, (dict(zip(header, line, strict=True)) for line in lines), strict=True):
        assert row["file"] == line["file"].strip()
        assert row["labels"] == tuple(float(line[name]) for name in DIMENSIONS)


@given(st.data())
def test_damaged_tables_are_read_or_refused(path, data):
    content = "\r\n".join(",".join(f'"{cell}"' if "," in cell else cell for cell in row) for row in TABLE[:3]).encode()
    read(template.read_recordings, path, data.draw(damaged(content)))
