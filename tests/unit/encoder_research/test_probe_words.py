import numpy as np
import pytest
import safetensors.torch
import soundfile

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.manifests import COLUMNS, read_manifest
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.lobes.lexical import LexicalHeads
from ser_ts_lobes.lobes.pieces import Pieces
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.text_files import write_csv
from tests.tiny_models import save_tiny_listener
from tools.encoder_research.probe_words import STEPS, load_run, main, probe_words

WORDS = {"good": 6.0, "lovely": 5.0, "bad": 2.0, "awful": 1.0}


@pytest.fixture
def run(tmp_path, tiny_hubert):
    """Write what train_words.py leaves, untrained."""
    folder = tmp_path / "run"
    save_tiny_listener(folder / "listener", tiny_hubert)
    pieces = Pieces.fit(WORDS, n_pieces=30)
    (folder / "pieces.model").write_bytes(pieces.model)
    heads = LexicalHeads(16, len(pieces), sentence_size=24)
    with replacing(folder / "heads.safetensors") as temporary:
        safetensors.torch.save_file(heads.state_dict(), temporary)
    return folder


@pytest.fixture
def manifest_folder(tmp_path):
    """Write manifests whose valence is in the words, and whose activation is in the loudness."""
    rng = np.random.default_rng(0)
    for split, size in (("train", 60), ("valid", 20), ("test1", 20)):
        rows = []
        for index in range(size):
            words, loudness = list(rng.choice(list(WORDS), 2)), rng.uniform(0.05, 0.9)
            wav = tmp_path / f"{split}{index}.wav"
            soundfile.write(wav, loudness * rng.uniform(-1, 1, 8000), 16000)
            labels = (7 * loudness, np.mean([WORDS[word] for word in words]), 1 + 6 * rng.random())
            rows.append((wav.stem, 0.5, wav, str(index), "Male", *labels, " ".join(words), "N"))
        (tmp_path / "manifests").mkdir(exist_ok=True)
        write_csv(tmp_path / "manifests" / f"{split}.csv", COLUMNS, rows)
    return tmp_path / "manifests"


def test_valence_is_read_from_the_words_that_were_said(run, manifest_folder, tiny_bert):
    manifests = {name: read_manifest(manifest_folder / f"{name}.csv") for name in ("train", "valid", "test1")}
    error_rates, scores = probe_words(load_run(run), manifests, TextEncoder(tiny_bert), progressbar=False)
    assert set(error_rates) == set(manifests) and min(error_rates.values()) > 0.5  # it has learnt nothing
    valence = DIMENSIONS.index("valence")
    assert list(scores) == list(STEPS) and set(scores[STEPS[0]]) == {"valid", "test1"}
    for name in ("valid", "test1"):
        assert scores["words said, read"][name][valence] > 0.8
        assert scores["listener, sentence"][name][valence] < 0.5


def test_a_table_is_printed_for_each_set(run, manifest_folder, tiny_bert, capsys):
    main([str(run), str(manifest_folder), f"--text_source={tiny_bert}"])
    output = capsys.readouterr().out
    assert "valid: word error rate" in output and "test1: word error rate" in output
    assert output.count("| words said, read |") == 2


def test_a_run_that_is_not_finished_is_one_sentence(run):
    (run / "heads.safetensors").unlink()
    with pytest.raises(InputError, match="has no heads.safetensors: name a folder that train_words.py has finished"):
        load_run(run)
