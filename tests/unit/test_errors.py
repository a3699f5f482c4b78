"""Sentences: about many things, and instead of tracebacks."""

import errno
import os
import re
import signal

import pytest
import torch

from ser_ts_lobes.data.audio import UnusableAudio
from ser_ts_lobes.errors import InputError, first_few, plain_errors


def test_what_an_error_quotes_stays_on_its_line():
    assert str(InputError("id 'a\nb\x1b[2J\0\u202e é' is wrong.")) == r"id 'a\nb\x1b[2J\x00\u202e é' is wrong."


def test_first_few():
    assert first_few("abcd") == "a, b, c and 1 more"
    assert first_few("abc") == "a, b, c"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room there, or name a folder on another disk"),
        (errno.EROFS, "let this program write there, or name another folder"),
        (errno.ESTALE, "see that the disk or the network drive is there"),
    ],
)
def test_what_the_system_says_of_a_file_is_one_sentence(number, advice):
    reason = os.strerror(number)
    for name, where in (("/x/metrics.json", "/x/metrics.json"), (None, "A file")):
        with pytest.raises(SystemExit) as ended, plain_errors():
            raise OSError(number, reason, name)
        sentence = f"error: {where} can't be read or written ({reason}): {advice}, and give the same command again."
        assert str(ended.value) == sentence


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file", "x"), OSError("odd"), RuntimeError("a bug")])
def test_what_may_be_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match=re.escape(str(error))), plain_errors():
        raise error


class Spoilt(torch.utils.data.Dataset):
    """Fails in whatever process reads it."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 4

    def __getitem__(self, place):
        return self.fail()


def raise_input_error():
    raise InputError("a.wav is\ngone.")


def raise_unusable_audio():
    raise UnusableAudio("a.wav", "missing")


def raise_type_error():
    raise TypeError("a bug")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("fail", "sentence"),
    [
        (raise_input_error, r"error: a.wav is\ngone."),
        (raise_unusable_audio, "error: The audio file a.wav can't be used (missing): give an intact recording."),
        (die, "error: a process that read the data has died (DataLoader worker (pid"),
    ],
)
def test_what_goes_wrong_in_a_process_that_reads_is_one_sentence(fail, sentence):
    with pytest.raises(SystemExit) as ended, plain_errors():
        list(torch.utils.data.DataLoader(Spoilt(fail), num_workers=1))
    said = str(ended.value)
    assert said == sentence if fail is not die else said.startswith(sentence)


def test_a_bug_in_a_process_that_reads_keeps_its_traceback():
    with pytest.raises(TypeError, match="Original Traceback"), plain_errors():
        list(torch.utils.data.DataLoader(Spoilt(raise_type_error), num_workers=1))
