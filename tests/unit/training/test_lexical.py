import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch

from ser_ts_lobes.data.transcribed import prepare_transcribed_speech
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.lexical import Heard
from ser_ts_lobes.lobes.pieces import Pieces
from ser_ts_lobes.lobes.speech import ListenerEncoder, load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.seals import SEAL, is_intact
from ser_ts_lobes.training.lexical import LexicalBrain, embed_sentences, make_lexical_datasets, recall_at
from tests.unit.training.test_brains import Killed, kill_after
from tools.build_hparams import ROOT

YAML = ROOT / "recipes" / "TranscribedSpeech" / "Words" / "hparams" / "words.yaml"
WORDS = {"good": 400, "bad": 700, "day": 1100, "lovely": 1700}  # and the tone in Hz that stands for each
SMALL = {
    "num_workers": 0,
    "batch_size": 8,
    "valid_share": 0.2,
    "n_pieces": 20,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "feature_folder": None,
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Sentences of three words, each word a tone of 0.3 s."""
    folder = tmp_path_factory.mktemp("speech")
    time = np.arange(4800) / 16000
    for words in itertools.product(WORDS, repeat=3):
        wav = np.concatenate([0.3 * np.sin(2 * np.pi * WORDS[word] * time) for word in words])
        soundfile.write(folder / f"{'_'.join(words)}.wav", wav, 16000)
        (folder / f"{'_'.join(words)}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture
def make_brain(speech, tiny_hubert, tiny_bert, tmp_path):
    """Do what train_words.py does before it trains."""

    def make(results="results", run_opts=frozenset(), **overrides):
        sources = {"sources": [str(speech)], "speech_source": tiny_hubert, "text_source": tiny_bert}
        overrides = sources | {"results_folder": str(tmp_path / results)} | SMALL | overrides
        run_opts = {"device": "cpu", "noprogressbar": True} | dict(run_opts)
        hparams = load_hyperpyyaml(YAML.read_text(encoding="utf-8"), overrides) | {"settings": {}}
        prepare_transcribed_speech(**hparams["prepare_opts"])
        return LexicalBrain(hparams, run_opts, *make_lexical_datasets(hparams, run_opts))

    return make


def folder_of(brain):
    return Path(brain.hparams.output_folder)


def test_words_are_learnt_without_ratings(make_brain):
    brain = make_brain(number_of_epochs=25, lr=0.003)
    brain.train()
    brain.export()
    report = json.loads((folder_of(brain) / "metrics.json").read_text())
    assert report["sentences"] == {"train": 51, "valid": 13}
    assert report["word_error_rate"] < 0.5  # of sentences that training has not heard
    assert report["recall_1"] > 3 / 13
    log = (folder_of(brain) / "train_log.txt").read_text().splitlines()
    assert len(log) == 25 and all(name in log[0] for name in ("train ctc", "train contrast", "train distance"))


def test_the_best_listener_is_exported(make_brain):
    brain = make_brain()
    entrance = brain.hparams.listener.entrance.weight
    for epoch, loss in ((1, 4.5), (2, 4.25), (3, 5.0)):
        with torch.no_grad():
            entrance.fill_(epoch)
        meta = {"word_error_rate": 0.5, "recall_1": 0.25, "recall_10": 0.75}
        brain.checkpointer.save_checkpoint(meta={"epoch": epoch, "valid_loss": loss, **meta})
    brain.export()
    encoder = load_speech_encoder(folder_of(brain) / "listener")
    assert isinstance(encoder, ListenerEncoder) and (encoder.model.listener.entrance.weight == 2).all()
    report = json.loads((folder_of(brain) / "metrics.json").read_text())
    assert is_intact(report) and report.pop(SEAL)
    assert report == {
        "system": "words",
        "seed": 1986,
        "settings": {},
        "epoch": 2,
        "valid_loss": 4.25,
        "word_error_rate": 0.5,
        "recall_1": 0.25,
        "recall_10": 0.75,
        "sentences": {"train": 51, "valid": 13},
    }
    assert Pieces((folder_of(brain) / "pieces.model").read_bytes()).model == brain.pieces.model
    reader = load_speech_encoder(folder_of(brain) / "reader")
    assert (reader.model.listener.entrance.weight == 2).all()
    assert reader.model.reader.spell.weight.equal(brain.hparams.heads.pieces.weight)
    spellings = brain.pieces.spellings()  # fewer than 20: there are four words
    assert reader.model.reader.spellings.pieces == spellings + [""] * (21 - len(spellings))


def test_another_text_encoder_reads_what_is_heard(make_brain, tiny_bert, tmp_path):
    taught = TextEncoder(tiny_bert, trainable_layers=1)
    with torch.no_grad():
        taught.layers[1].output.LayerNorm.bias += 1
    taught.save(tmp_path / "taught")
    meta = {"epoch": 1, "valid_loss": 4.5, "word_error_rate": 0.5, "recall_1": 0.25, "recall_10": 0.75}
    for source, bias in ((tiny_bert, 0.0), (str(tmp_path / "taught"), 1.0)):  # the same run: its reader is made anew
        brain = make_brain(reader_source=source)
        brain.checkpointer.save_checkpoint(meta=meta)
        brain.export()
        reader = load_speech_encoder(folder_of(brain) / "reader")
        assert (reader.model.reader.text.encoder.layer[1].output.LayerNorm.bias == bias).all()


def test_without_word_pieces_no_reader_is_written(make_brain, caplog):
    brain = make_brain()
    meta = {"epoch": 1, "valid_loss": 4.5, "word_error_rate": 0.5, "recall_1": 0.25, "recall_10": 0.75}
    brain.checkpointer.save_checkpoint(meta=meta)
    brain.hparams.text_encoder.model.config.model_type = "roberta"
    brain.export()
    assert not (folder_of(brain) / "reader").exists() and (folder_of(brain) / "listener").is_dir()
    assert "No reader is written" in caplog.text


def test_layers_below_may_learn_too(make_brain):
    brain = make_brain(trainable_layers=1, number_of_epochs=1)
    layers = [layer.attention.k_proj.weight for layer in brain.hparams.speech_encoder.layers]
    before = [weight.clone() for weight in layers]
    brain.train()
    assert [weight.equal(old) for weight, old in zip(layers, before, strict=True)] == [True, True, False]
    rates = [group["lr"] for group in brain.optimizer.param_groups]
    assert rates[1] == pytest.approx(rates[0] / 4)
    brain.export()
    saved = load_speech_encoder(folder_of(brain) / "listener").model.speech
    assert saved.layers[2].attention.k_proj.weight.equal(layers[2])


def test_an_interrupted_training_ends_as_one_that_was_not(make_brain):
    whole = make_brain("whole", number_of_epochs=2)
    whole.train()
    for steps in (3, 8):
        brain = make_brain(run_opts={"ckpt_interval_steps": 1}, number_of_epochs=2)
        kill_after(brain, steps)
        with pytest.raises(Killed):
            brain.train()
    brain = make_brain(number_of_epochs=2)
    brain.train()
    for part in ("listener", "heads"):
        weights = [getattr(resumed.hparams, part).state_dict() for resumed in (whole, brain)]
        assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert (folder_of(whole) / "train_log.txt").read_text() == (folder_of(brain) / "train_log.txt").read_text()


def test_the_rate_rises_and_falls_to_nothing(make_brain):
    brain = make_brain(number_of_epochs=4)
    rates = []
    step = brain.optimizers_step

    def watched():
        rates.append(brain.optimizer.param_groups[0]["lr"])
        step()

    brain.optimizers_step = watched
    brain.train()
    assert len(rates) == 24  # 6 batches of 8 an epoch
    assert max(rates) == pytest.approx(0.001, rel=0.2) and rates.index(max(rates)) in (1, 2)
    assert rates[0] < 1e-4 and rates[-1] < 1e-5 and rates[3:] == sorted(rates[3:], reverse=True)


def test_a_rate_that_was_to_fall_by_then_is_not_stretched(make_brain):
    make_brain(number_of_epochs=1).train()
    with pytest.raises(InputError, match="falls to 0 after 6 steps, and 12 are wanted now"):
        make_brain(number_of_epochs=2).train()


def test_a_training_of_a_few_steps_is_refused(make_brain):
    with pytest.raises(InputError, match="Training would be of 2 steps"):
        make_brain(number_of_epochs=2, batch_size=50).train()
    make_brain("more", number_of_epochs=3, batch_size=50).train()


def test_debug_mode_and_an_untrained_listener_leave_nothing(make_brain):
    brain = make_brain(run_opts={"debug": True, "debug_batches": 1, "debug_epochs": 1, "debug_persistently": True})
    with pytest.raises(InputError, match="holds no checkpoint"):
        brain.export()
    brain.train()
    brain.export()
    assert not (folder_of(brain) / "metrics.json").exists() and not (folder_of(brain) / "listener").exists()


def batch_of(brain, split="valid"):
    dataset = brain.datasets[split]
    return PaddedBatch([dataset[index] for index in range(6)])


def test_the_loss_is_the_sum_of_its_parts(make_brain):
    brain = make_brain(ctc_weight=2.0, contrast_weight=3.0, distance_weight=5.0)
    brain.on_stage_start(sb.Stage.VALID)
    batch = batch_of(brain)
    log_probs = torch.randn(6, 40, 21).log_softmax(-1)
    sentence = torch.nn.functional.normalize(torch.randn(6, 24), dim=-1)
    lens = torch.linspace(0.8, 1, 6)
    heard = Heard(log_probs, sentence, lens, torch.tensor(7.0))
    loss = brain.compute_objectives(heard, batch, sb.Stage.VALID)

    ctc = 0.0
    for row in range(6):
        ids = batch.pieces.data[row, : int(batch.pieces.lengths[row] * batch.pieces.data.shape[1] + 0.5)]
        n_frames = int(lens[row] * 40 + 0.5)
        one = torch.nn.functional.ctc_loss(
            log_probs[row, :n_frames, None], ids[None], [n_frames], [len(ids)], reduction="sum"
        )
        ctc += float(one) / len(ids) / 6
    sentences = brain.sentences["valid"]
    rows = [sentences.row_of[utterance] for utterance in batch.id]
    cosines = sentence @ sentences.embeddings.T
    contrast = torch.nn.functional.cross_entropy(7 * cosines, torch.tensor(rows))
    distance = 1 - cosines[range(6), rows].mean()
    assert float(loss) == pytest.approx(2 * ctc + 3 * float(contrast) + 5 * float(distance), rel=1e-5)


def test_what_is_said_too_fast_teaches_no_pieces(make_brain):
    brain = make_brain(contrast_weight=0.0, distance_weight=0.0)
    brain.on_stage_start(sb.Stage.VALID)
    log_probs = torch.zeros(6, 1, 21, requires_grad=True)
    heard = Heard(log_probs.log_softmax(-1), torch.eye(6, 24), torch.ones(6), torch.tensor(1.0))
    loss = brain.compute_objectives(heard, batch_of(brain), sb.Stage.VALID)
    loss.backward()
    assert loss.item() == 0 and not log_probs.grad.any()


def test_negatives_are_of_the_training_set_and_new_in_each_step(make_brain):
    brain = make_brain(n_others=10)
    batch = batch_of(brain, "train")
    heard = Heard(torch.zeros(6, 40, 21).log_softmax(-1), torch.eye(6, 24), torch.ones(6), torch.tensor(9.0))
    losses = {float(brain.compute_objectives(heard, batch, sb.Stage.TRAIN)) for _ in range(3)}
    assert len(losses) == 3


def test_sentences_are_embedded_as_by_hand(tiny_bert):
    encoder, texts = TextEncoder(tiny_bert), ["it was good", "a", "so very awful a day", "it was good"]
    embedded = embed_sentences(encoder, texts, batch_size=2, progressbar=False)
    for text, vector in zip(texts, embedded, strict=True):
        with torch.no_grad():
            tokens, _ = encoder(encoder.tokenize(text)[None], torch.ones(1))
        mean = tokens[0].double().mean(0)
        torch.testing.assert_close(vector.double(), mean / mean.norm(), atol=1e-6, rtol=0)


def test_a_tie_is_a_miss():
    alike = torch.ones(3, 2) / 2**0.5
    assert recall_at(alike, alike, [0, 1, 2], (1, 3)) == (0.0, 1.0)
    assert recall_at(torch.eye(3), torch.eye(3), [0, 1, 2], (1,)) == (1.0,)
    assert recall_at(torch.eye(3), torch.eye(3), [1, 1, 2], (1,)) == (pytest.approx(2 / 3),)


def test_a_run_starts_from_another_and_teaches_what_is_below_it(make_brain):
    first = make_brain(number_of_epochs=1, results="first")
    first.train()
    first.export()
    second = make_brain(number_of_epochs=1, start_from=str(folder_of(first)), trainable_layers=1)
    assert second.pieces.model == first.pieces.model
    for name in ("listener", "heads"):
        found, expected = (brain.hparams.modules[name].state_dict() for brain in (second, first))
        assert all(weight.equal(expected[key]) for key, weight in found.items())
    second.train()
    second.export()
    weights = [brain.hparams.speech_encoder.layers[2].attention.k_proj.weight for brain in (first, second)]
    assert not weights[0].equal(weights[1])
    third = make_brain(start_from=str(folder_of(second)), results="third")  # what has learnt below comes along
    assert third.hparams.speech_encoder.layers[2].attention.k_proj.weight.equal(weights[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "heads.safetensors").unlink(), "has no heads.safetensors: name the folder"),
        (lambda run: (run / "listener" / "listener.safetensors").write_bytes(b""), "networks of other sizes"),
    ],
)
def test_what_is_no_run_to_start_from_is_one_sentence(make_brain, change, said):
    first = make_brain(results="first", number_of_epochs=1)
    first.train()
    first.export()
    change(folder_of(first))
    with pytest.raises(InputError, match=said):
        make_brain(start_from=str(folder_of(first)))


def test_a_run_of_other_sizes_is_no_start(make_brain):
    first = make_brain(results="first", number_of_epochs=1)
    first.train()
    first.export()
    with pytest.raises(InputError, match="start_from: .* other sizes"):
        make_brain(start_from=str(folder_of(first)), hidden_size=8)
