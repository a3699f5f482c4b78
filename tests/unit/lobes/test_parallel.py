import threading

import pytest
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.descriptors import ShortTermStatistics
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.speech import WhisperEncoder, load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from tests.tiny_models import save_tiny_whisper

SECOND = 16000
LENS = torch.tensor([1.0, 0.5])


@pytest.fixture
def set_threads():
    """Set PyTorch's number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_batch():
    return 0.1 * torch.randn(2, 2 * SECOND)


def in_thread(function):
    """Start a thread; give a function that waits for it, and returns what the thread's function did."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def wait():
        thread.join()
        return results[0]

    return wait


def spy(monkeypatch, encoder, look):
    """Look at each call of the encoder's first step; return the list of what was seen."""
    seen, embed = [], encoder._embed
    monkeypatch.setattr(encoder, "_embed", lambda *inputs: seen.append(look(*inputs)) or embed(*inputs))
    return seen


def test_a_cpu_encodes_waveforms_one_by_one(tiny_hubert, monkeypatch):
    encoder = load_speech_encoder(tiny_hubert)
    sizes = spy(monkeypatch, encoder, lambda wavs, lens: tuple(wavs.shape))
    compute_frozen(encoder, make_batch(), LENS)
    assert sizes == [(1, 2 * SECOND), (1, SECOND)]


@pytest.mark.parametrize("describes", [False, True])
def test_other_devices_encode_a_batch_at_once_but_for_descriptors(tiny_hubert, monkeypatch, describes):
    encoder = ShortTermStatistics() if describes else load_speech_encoder(tiny_hubert)
    sizes = []
    monkeypatch.setattr(
        encoder, "frozen_forward", lambda wavs, lens: sizes.append(tuple(wavs.shape)) or (wavs.unsqueeze(-1), lens)
    )
    hidden, _ = compute_frozen(encoder, make_batch().to("meta"), LENS)
    assert sizes == ([(1, 2 * SECOND), (1, SECOND)] if describes else [(2, 2 * SECOND)])
    assert hidden.device.type == "meta" and hidden.shape == (2, 2 * SECOND, 1)


def test_tokens_and_kept_features_are_not_taken_apart(tiny_bert, monkeypatch):
    encoder = TextEncoder(tiny_bert)
    sizes = spy(monkeypatch, encoder, lambda ids, lens: tuple(ids.shape))
    ids = torch.tensor([[2, 5, 6, 3], [2, 3, 0, 0]])
    hidden, lens = compute_frozen(encoder, ids, LENS)
    assert sizes == [(2, 4)] and lens is LENS
    assert hidden.equal(encoder.frozen_forward(ids, LENS)[0])
    assert compute_frozen(encoder, hidden, LENS) == (hidden, LENS)
    assert len(sizes) == 2


@pytest.mark.parametrize(("n_threads", "each"), [(1, 1), (3, 1), (4, 2)])
def test_waveforms_share_the_threads_out(tiny_hubert, monkeypatch, set_threads, n_threads, each):
    encoder = load_speech_encoder(tiny_hubert)
    batch = make_batch()
    expected, _ = encoder.frozen_forward(batch, LENS)
    used = spy(monkeypatch, encoder, lambda wavs, lens: torch.get_num_threads())
    set_threads(n_threads)
    hidden, _ = compute_frozen(encoder, batch, LENS)
    assert used == [each, each]
    assert in_thread(torch.get_num_threads)() == torch.get_num_threads() == n_threads
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


def test_two_threads_that_encode_at_once_leave_the_number_of_threads(tiny_hubert, monkeypatch, set_threads):
    encoder = load_speech_encoder(tiny_hubert)
    batch = make_batch()
    first_is_in, second_is_done = threading.Event(), threading.Event()

    def encode():
        compute_frozen(encoder, batch, LENS)
        return torch.get_num_threads()

    def wait_in_the_first_call(wavs, lens):
        if not first_is_in.is_set():
            first_is_in.set()
            assert second_is_done.wait(60)
        return torch.get_num_threads()

    used = spy(monkeypatch, encoder, wait_in_the_first_call)
    set_threads(4)
    first = in_thread(encode)
    assert first_is_in.wait(60)
    second = in_thread(encode)()  # begins and ends while the first is in the middle
    second_is_done.set()
    assert (first(), second, torch.get_num_threads(), in_thread(torch.get_num_threads)()) == (4, 4, 4, 4)
    assert used == [2, 2, 2, 2]


def test_an_error_in_a_thread_is_raised(tmp_path, set_threads):
    encoder = WhisperEncoder(save_tiny_whisper(tmp_path))
    set_threads(2)
    with pytest.raises(InputError, match="at most 10 s"):
        compute_frozen(encoder, 0.1 * torch.randn(2, 11 * SECOND), LENS)


def test_under_autocast_a_cpu_encodes_a_batch_at_once(tiny_hubert, monkeypatch):
    encoder = load_speech_encoder(tiny_hubert)
    sizes = spy(monkeypatch, encoder, lambda wavs, lens: tuple(wavs.shape))
    torch.manual_seed(0)
    wavs = make_batch()
    expected, _ = compute_frozen(encoder, wavs, LENS)
    with torch.autocast("cpu", torch.bfloat16):
        hidden, lens = compute_frozen(encoder, wavs, LENS)
    assert sizes[2:] == [(2, 2 * SECOND)]
    assert hidden.shape == expected.shape and not hidden.equal(expected)  # it was computed in bfloat16
    torch.testing.assert_close(hidden.float(), expected, atol=0.15, rtol=0)
