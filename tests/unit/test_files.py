import pytest

from ser_ts_lobes.files import map_files, replacing


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_many_files_come_in_their_order(count):
    assert map_files(str, range(count)) == [str(index) for index in range(count)]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
