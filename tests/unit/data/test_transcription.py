"""Transcription by small random recognisers of the real classes: what they hear is gibberish."""

import csv
import hashlib
import json
import shutil
from itertools import groupby

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    AutoTokenizer,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from ser_ts_lobes.data import transcription
from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.data.manifests import Utterance, write_manifests
from ser_ts_lobes.data.transcription import load_recogniser, recognise, transcribe
from ser_ts_lobes.errors import InputError, plain_errors
from tests.ranks import on_each_rank
from tests.tiny_models import LETTERS, save_tiny_bert, save_tiny_recogniser, save_tiny_ssl

CPU = torch.device("cpu")


def save_ctc(folder, style="base", blank_bias=0.0):
    """Save a wav2vec 2.0 that says a letter in most frames, or nothing when its blank has a large bias."""
    torch.manual_seed(0)
    large = style == "large"
    config = Wav2Vec2Config(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large,
        pad_token_id=0,
        initializer_range=1.0,
    )
    model = Wav2Vec2ForCTC(config)
    model.lm_head.bias.data[0] = blank_bias
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=large).save_pretrained(folder)
    vocabulary = folder / "letters.json"
    tokens = ["<pad>", "<unk>", "|", *LETTERS, "'"]
    vocabulary.write_text(json.dumps({token: id for id, token in enumerate(tokens)}))
    Wav2Vec2CTCTokenizer(vocabulary, bos_token=None, eos_token=None).save_pretrained(folder)
    return folder


@pytest.fixture(params=["whisper", "ctc_base", "ctc_large"])
def asr(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    kind, _, style = request.param.partition("_")
    return save_tiny_recogniser(folder) if kind == "whisper" else save_ctc(folder, style)


@pytest.fixture
def ctc(tmp_path):
    folder = tmp_path / "ctc"
    folder.mkdir()
    return save_ctc(folder)


@pytest.fixture
def manifests(tmp_path):
    """Make clips of 0.4 to 1.9 s, of which `told` and `silent` need no recogniser."""
    random = np.random.default_rng(0)
    seconds = {"a": 0.5, "b": 1.9, "told": 0.7, "c": 0.4, "d": 0.9, "silent": 0.6}
    utterances = []
    for id, duration in seconds.items():
        envelope = np.sin(np.linspace(0, 20 * duration, int(16000 * duration)))
        soundfile.write(tmp_path / f"{id}.wav", 0.2 * envelope * random.normal(size=len(envelope)), 16000)
        transcript = {"told": "somebody wrote this", "silent": ""}.get(id)
        utterances.append(Utterance(id, duration, tmp_path / f"{id}.wav", "s", "F", (3, 4, 5), transcript, "N"))
    splits = {"train": utterances[:3], "valid": utterances[3:4], "test": utterances[4:]}
    write_manifests(tmp_path / "manifests", splits, tmp_path, "inputs", (1, 7))
    return tmp_path / "manifests"


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_missing_transcripts_are_filled_the_longest_first(asr, manifests, capsys):
    path = transcribe(manifests, asr)
    assert path == manifests / "transcripts.csv"
    rows = read(path)
    assert [row["ID"] for row in rows] == ["b", "d", "a", "c"]
    assert list(rows[0]) == ["ID", "transcript", "model", "revision"]
    assert all(row["transcript"] == " ".join(row["transcript"].split()) for row in rows)
    assert len({row["transcript"] for row in rows}) > 1
    sha256 = hashlib.sha256((asr / "model.safetensors").read_bytes()).hexdigest()
    assert {(row["model"], row["revision"]) for row in rows} == {(asr.name, f"sha256:{sha256[:16]}")}
    assert "Transcribed 4 utterances (0 empty), 0.00 h of audio" in capsys.readouterr().out


def test_batches_do_not_change_transcripts(asr, manifests, tmp_path):
    one = read(transcribe(manifests, asr, out=tmp_path / "one.csv", batch_size=1))
    four = read(transcribe(manifests, asr, out=tmp_path / "four.csv", batch_size=4))
    assert one == four


def test_ctc_is_the_best_path(ctc, tmp_path, manifests):
    """Argmax of each frame, repeats joined, blanks dropped, `|` between words."""
    audio = read_audio(tmp_path / "a.wav")
    with torch.no_grad():
        logits = Wav2Vec2ForCTC.from_pretrained(ctc).eval()(((audio - audio.mean()) / audio.std(correction=0))[None])
    tokens = ["", "<unk>", " ", *LETTERS, "'"]
    expected = "".join(tokens[id] for id, _ in groupby(logits.logits[0].argmax(-1).tolist()))
    (text,) = recognise(load_recogniser(str(ctc), "main", CPU), [tmp_path / "a.wav"], 1)
    assert text == " ".join(expected.split()) != ""


def test_whisper_is_the_greedy_path_after_its_prompt(tmp_path, manifests):
    folder = save_tiny_recogniser(tmp_path / "whisper")
    audio = read_audio(tmp_path / "a.wav").numpy()
    features = WhisperFeatureExtractor.from_pretrained(folder)(audio, sampling_rate=16000, return_tensors="pt")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    end, start, no_timestamps = 27, 28, 29
    ids = [start, no_timestamps]
    with torch.no_grad():
        while len(ids) < 14 and ids[-1] != end:
            logits = model(features.input_features, decoder_input_ids=torch.tensor([ids])).logits
            ids.append(int(logits[0, -1].argmax()))
    expected = tokenizer.decode([id for id in ids if id < end])
    (text,) = recognise(load_recogniser(str(folder), "main", CPU), [tmp_path / "a.wav"], 1)
    assert text == " ".join(expected.split()) != ""


def test_ctc_beyond_a_window(ctc, tmp_path):
    """Windows overlap, so that 70 s of a steady sound are heard as steadily as 20 s."""
    tone = 0.2 * np.sin(2 * np.pi * 200 * np.arange(70 * 16000) / 16000)
    soundfile.write(tmp_path / "long.wav", tone, 16000)
    soundfile.write(tmp_path / "short.wav", tone[: 20 * 16000], 16000)
    recogniser = load_recogniser(str(ctc), "main", CPU)
    frames = []
    hook = recogniser.model.register_forward_hook(lambda *call: frames.append(call[2].logits.shape[1]))
    long, short = recognise(recogniser, [tmp_path / "long.wav", tmp_path / "short.wav"], 8)
    hook.remove()
    assert set(long) == set(short)
    assert frames == [1499, 1499, 1499, 999]  # windows of 30 s from 0, 20 and 40 s, then the 20 s


def test_empty_results_stay_empty_and_are_counted(tmp_path, manifests, capsys):
    folder = tmp_path / "mute"
    folder.mkdir()
    rows = read(transcribe(manifests, save_ctc(folder, blank_bias=1e4)))
    assert [row["transcript"] for row in rows] == [""] * 4
    assert "Transcribed 4 utterances (4 empty)" in capsys.readouterr().out


def test_a_run_goes_on_where_it_was_cut_short(asr, manifests, tmp_path, capsys):
    whole = (tmp_path / "c.wav").read_bytes()
    (tmp_path / "c.wav").write_bytes(whole[:2000])
    with pytest.raises(InputError, match=r"c\.wav can't be used \(truncated\)"):
        transcribe(manifests, asr, batch_size=1)
    path = manifests / "transcripts.csv"
    assert [row["ID"] for row in read(path)] == ["b", "d", "a"]

    done = path.read_text().replace(read(path)[0]["transcript"], "kept from the first run", 1)
    path.write_text(done)
    (tmp_path / "c.wav").write_bytes(whole)
    transcribe(manifests, asr, batch_size=1)
    assert path.read_text().startswith(done)
    assert [row["ID"] for row in read(path)] == ["b", "d", "a", "c"]
    assert "Transcribed 1 utterances" in capsys.readouterr().out


def test_what_is_done_is_saved_while_it_runs(ctc, manifests, monkeypatch):
    saved = []

    def write_and_look(path, *content):
        write_csv(path, *content)
        saved.append(len(read(path)))

    write_csv = transcription.write_csv
    monkeypatch.setattr(transcription, "write_csv", write_and_look)
    monkeypatch.setattr(transcription, "SAVE_EVERY_S", 0.0)
    transcribe(manifests, ctc)
    assert saved == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("n_processes", [2, 5])  # of five, the last gets nothing
def test_processes_write_together_what_one_would(ctc, manifests, tmp_path, monkeypatch, n_processes):
    alone = transcribe(manifests, ctc, out=tmp_path / "alone.csv").read_text()
    out, heard = manifests / "transcripts.csv", []
    recognise = transcription.recognise
    monkeypatch.setattr(
        transcription, "recognise", lambda *args: (heard.append(text) or text for text in recognise(*args))
    )
    monkeypatch.setattr(transcription, "SAVE_EVERY_S", 0.0)  # so that they also write at the same time

    def task(_):
        transcribe(manifests, ctc)
        transcribe(manifests, ctc)  # nothing is left to do
        return len(heard), out.read_text()

    shares = [2, 2] if n_processes == 2 else [1, 1, 1, 1, 0]
    assert on_each_rank(task, tmp_path, n_processes) == [(n_heard, alone) for n_heard in shares]


@pytest.mark.parametrize(("rank", "device"), [(None, "cuda:0"), ("3", "cuda:3")])
def test_each_process_has_a_gpu_of_its_own(manifests, monkeypatch, rank, device):
    def check_device(name):
        raise InputError(f"asked for {name}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(transcription, "join", lambda run_opts: None)
    monkeypatch.setattr(transcription, "check_device", check_device)
    monkeypatch.setenv("LOCAL_RANK", rank) if rank else monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(InputError, match=f"asked for {device}$"):
        transcribe(manifests)


def test_what_processes_have_heard_is_kept_when_one_fails(ctc, manifests, tmp_path):
    whole = (tmp_path / "c.wav").read_bytes()
    (tmp_path / "c.wav").write_bytes(whole[:2000])

    def task(_):
        with plain_errors():
            transcribe(manifests, ctc, batch_size=1)

    said = on_each_rank(task, tmp_path, 2)
    assert "another process of this run has ended" in said[0] and "c.wav can't be used (truncated)" in said[1]
    path = manifests / "transcripts.csv"
    assert sorted(row["ID"] for row in read(path)) == ["a", "b", "d"]
    (tmp_path / "c.wav").write_bytes(whole)
    transcribe(manifests, ctc)
    assert sorted(row["ID"] for row in read(path)) == ["a", "b", "c", "d"]


def test_nothing_to_do(ctc, manifests, tmp_path, capsys):
    first = transcribe(manifests, ctc)
    content = first.read_bytes()
    (ctc / "model.safetensors").unlink()  # need not be loaded
    assert transcribe(manifests, ctc) == first
    assert first.read_bytes() == content
    assert "No transcript is missing" in capsys.readouterr().out


def test_transcripts_of_another_recogniser_are_refused(manifests, tmp_path):
    first, renamed, reweighted = tmp_path / "asr", tmp_path / "renamed", tmp_path / "other" / "asr"
    save_tiny_recogniser(first)
    shutil.copytree(first, renamed)
    save_tiny_recogniser(reweighted, seed=1)
    path = transcribe(manifests, first)
    with pytest.raises(InputError, match=r"another model \(asr; this run's is renamed\).*--out"):
        transcribe(manifests, renamed)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(InputError, match=r"another revision \(sha256:.*delete this one"):
        transcribe(manifests, reweighted)


def test_what_is_no_recogniser(manifests, tmp_path):
    with pytest.raises(InputError, match="'no/such/folder' can't be loaded"):
        transcribe(manifests, "no/such/folder")
    with pytest.raises(InputError, match="can't be loaded as a speech recogniser"):
        transcribe(manifests, save_tiny_bert(tmp_path / "bert"))
    save_tiny_recogniser(tmp_path / "multilingual", vocab_size=51865)
    with pytest.raises(InputError, match="no lang_to_id"):
        transcribe(manifests, tmp_path / "multilingual")
    assert not (manifests / "transcripts.csv").exists()


def test_a_recogniser_without_a_tokenizer(asr, manifests):
    for path in [path for path in asr.iterdir() if "token" in path.name or "vocab" in path.name]:
        path.unlink()
    with pytest.raises(InputError, match="can't be loaded as a speech recogniser"):
        transcribe(manifests, asr)
    assert not (manifests / "transcripts.csv").exists()


def test_a_pretrained_encoder_is_no_recogniser(ctc, manifests):
    """wav2vec2-base comes with a tokenizer of letters, but no head: transformers would invent one."""
    save_tiny_ssl(ctc, "wav2vec2")
    with pytest.raises(InputError, match="no weights for lm_head.bias, lm_head.weight"):
        transcribe(manifests, ctc)


def test_other_input_that_cannot_be_used(ctc, manifests, tmp_path):
    with pytest.raises(InputError, match="no manifests"):
        transcribe(tmp_path, ctc)
    with pytest.raises(InputError, match="batch size of 0"):
        transcribe(manifests, ctc, batch_size=0)
    with pytest.raises(InputError, match="folder of .*nowhere/out.csv does not exist"):
        transcribe(manifests, ctc, out=tmp_path / "nowhere" / "out.csv")
    with pytest.raises(InputError, match="device 'gpu' can't be used"):
        transcribe(manifests, ctc, device="gpu")
    with pytest.raises(InputError, match=r"elsewhere/.*does not exist\. Give --data-root"):
        transcribe(manifests, ctc, data_root=tmp_path / "elsewhere")
