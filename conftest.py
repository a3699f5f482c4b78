"""What all tests and doctests share."""

import os
import shutil
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from speechbrain.utils.importutils import LazyModule

# hypothesis asks every loaded module for its file, and SpeechBrain's deprecated modules answer by importing
# what they stand for, such as k2, which isn't there.
LazyModule.__file__ = None

# One thread, here and in the programs that tests start: `make test` runs two processes, and the sums are done in
# the same order on any machine. And no test waits for the network.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is first imported, by a test

# A slow machine is no failure, and a failure must come again when the test is run again: by default the cases are the
# same each time; `make endurance` (--hypothesis-profile=endurance) tries others each time, and prints how to get back.
_PATIENT = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("ser_ts_lobes", **_PATIENT, derandomize=True, max_examples=200)
hypothesis.settings.register_profile("endurance", **_PATIENT, print_blob=True, max_examples=10_000)
hypothesis.settings.load_profile("ser_ts_lobes")


@pytest.fixture(autouse=True)
def seeded():
    """Start each test from the same random state, whichever tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def shared_folder():
    """Real recordings and weights, beside the checkout."""
    folder = Path(__file__).resolve().parents[1] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared (real recordings and weights), which is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_hubert(tmp_path_factory):
    """Give the folder of a small random HuBERT, base style."""
    from tests.tiny_models import save_tiny_ssl  # here, so that HF_HUB_OFFLINE counts

    return save_tiny_ssl(tmp_path_factory.mktemp("tiny_hubert"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """Give the folder of a small random BERT with its tokenizer."""
    from tests.tiny_models import save_tiny_bert

    return save_tiny_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def student_folder(tiny_hubert, tmp_path_factory):
    """Give the folder of an exported student of random weights."""
    from tests.tiny_student import save_tiny_student

    return save_tiny_student(tmp_path_factory.mktemp("students") / "student", tiny_hubert)


@pytest.fixture(scope="module")
def student(student_folder):
    """Give that student, loaded."""
    from ser_ts_lobes.student.inference import EmotionRegressor

    return EmotionRegressor.from_pretrained(student_folder)


@pytest.fixture(scope="session")
def spoken():
    """Give a sentence that eSpeak NG says: (N,) float32 at 16 kHz, full scale -1 to 1."""
    from scipy.signal import resample_poly

    from tools.make_demo_corpus import ESpeak

    espeak = ESpeak()
    said = espeak.speak("the quick brown fox jumps over the lazy dog", "en-us", 160, 50, 50)
    return resample_poly(said, 320, espeak.sample_rate // 50).astype(np.float32)


@pytest.fixture(scope="module")
def browser():
    """Give a browser without a window, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("needs Debian's chromium and chromium-driver (`apt-get install chromium chromium-driver`)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1400"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    yield browser
    browser.quit()
