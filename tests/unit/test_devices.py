import pytest

from ser_ts_lobes.devices import check_device
from ser_ts_lobes.errors import InputError


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_there_is_one_sentence(name):
    with pytest.raises(InputError, match=f"^The device '{name}' can't be used .*Try cpu.$"):
        check_device(name)


def test_the_cpu_is_always_there():
    assert check_device("cpu").type == "cpu"
