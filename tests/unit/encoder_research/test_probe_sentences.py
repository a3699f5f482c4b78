import numpy as np
import soundfile

from ser_ts_lobes.data.manifests import COLUMNS
from ser_ts_lobes.text_files import write_csv
from tools.encoder_research.probe_sentences import different, find_sentences, main, score_labels


def draw(rng, sizes):
    return {name: rng.standard_normal((size, 12)) for name, size in sizes.items()}


def test_labels_are_read_where_they_are_linear():
    rng = np.random.default_rng(0)
    features = draw(rng, {"train": 300, "valid": 80, "test1": 80})
    weights = rng.standard_normal((12, 2))
    noise = {name: rng.standard_normal((len(f), 1)) for name, f in features.items()}
    labels = {name: np.hstack([f @ weights, noise[name]]) for name, f in features.items()}
    scores = score_labels(features, labels)
    assert list(scores) == ["valid", "test1"]
    for of_set in scores.values():
        assert (of_set[:2] > 0.95).all() and of_set[2] < 0.3


def test_sentences_are_found_where_they_are_linear():
    rng = np.random.default_rng(0)
    features = draw(rng, {"train": 400, "valid": 50, "test1": 60})
    weights = rng.standard_normal((12, 8))
    embeddings = {name: f @ weights for name, f in features.items()}
    embeddings = {name: e / np.linalg.norm(e, axis=1, keepdims=True) for name, e in embeddings.items()}
    rows = {name: np.arange(len(e)) for name, e in embeddings.items()}
    found = find_sentences(features, embeddings, rows)
    assert list(found) == ["valid", "test1"] and min(found.values()) > 0.9
    features["test1"] = rng.standard_normal((60, 12))
    assert find_sentences(features, embeddings, rows)["test1"] < 0.2


def test_only_different_sentences_are_looked_for():
    assert different(["a", "b", "a", "c", "d"], 3).tolist() == [0, 1, 3]
    assert different(["a", "a"], 3).tolist() == [0]


def test_a_table_of_each_encoder_is_printed(tmp_path, tiny_hubert, tiny_bert, capsys):
    rng = np.random.default_rng(0)
    for split, size in (("train", 12), ("valid", 6), ("test1", 6)):
        rows = []
        for index in range(size):
            wav = tmp_path / f"{split}{index}.wav"
            soundfile.write(wav, 0.1 * rng.standard_normal(8000), 16000)
            words = " ".join(rng.choice(["good", "bad", "day", "it", "was"], 4))
            rows.append((wav.stem, 0.5, wav, str(index), "Male", *rng.uniform(1, 7, 3), words, "N"))
        (tmp_path / "manifests").mkdir(exist_ok=True)
        write_csv(tmp_path / "manifests" / f"{split}.csv", COLUMNS, rows)
    main([str(tiny_hubert), "--manifests", str(tmp_path / "manifests"), "--text_source", str(tiny_bert), "--random"])
    output = capsys.readouterr().out
    assert f"\n{tiny_hubert}\n" in output and f"\n{tiny_hubert}, random weights\n" in output
    header = "| layer | valid: found | valid: activation | valid: valence | valid: dominance | test1: found |"
    assert output.count(header) == 2
