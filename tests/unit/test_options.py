import dataclasses
import re

import pytest
from speechbrain.utils.run_opts import RunOptions

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.options import check_run_options, check_settings
from ser_ts_lobes.settings import read_settings
from tests.integration.programs import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("hparams/*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_settings_are_in_range(path):
    check_settings(read_settings(path, "{data_folder: /corpus, sources: [/corpus], word_vectors: glove.txt}"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("batch_size", 0, "give a whole number from 1 on"),
        ("batch_size", 2.5, "give a whole number from 1 on"),
        ("number_of_epochs", True, "give a whole number from 1 on"),
        ("grad_accumulation_factor", "two", "give a whole number from 1 on"),
        ("num_workers", -1, "give a whole number from 0 on"),
        ("lora_rank", -1, "give a whole number from 0 on"),
        ("lr", "fast", "give a number from 0 on"),
        ("ts_weight", -1, "give a number from 0 on"),
        ("encoder_lr", float("nan"), "give a number from 0 on"),
        ("precision", "fp8", "choose one of fp32, fp16, bf16"),
        ("eval_precision", 16, "choose one of fp32, fp16, bf16"),
        ("feature_dtype", "int8", "choose one of float16, bfloat16, float32"),
        ("pooling", "mean", "choose one of gru, transformer, attention"),
        ("max_grad_norm", 0, "give a number above 0, or null to clip nothing"),
        ("max_grad_norm", True, "give a number above 0, or null to clip nothing"),
        ("prediction_weight", -1, "give a number from 0 on"),
        ("soft_label_weight", -0.5, "give a number from 0 on"),
        ("soft_label_points", 7, "give the points of the labels' scale, two or more"),
        ("taught", "words", "choose one of joint, text, sentence"),
        ("trust", "hard", "choose one of cut, soft, per_dimension"),
        ("batches", "sorted", "choose one of shuffled, by_length"),
        ("emotion_weight", -1, "give a number from 0 on"),
        ("emotion_classes", "angry", "give the classes to learn, two or more"),
        ("wav_augment", "noise", "give an !new:speechbrain.augment.augmenter.Augmenter, as in ft_augmented.yaml"),
        ("fea_augment", True, "give an !new:speechbrain.augment.augmenter.Augmenter, as in ft_augmented.yaml"),
        ("tracker", "mlflow", "choose one of tensorboard, wandb, or null"),
        ("max_batch_s", 0, "give a number of seconds above 0, or null"),
        ("residual_threshold", -0.1, "give a number of standard deviations from 0 on, or null to follow"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(name, value, said):
    with pytest.raises(InputError, match=f"^{name} is {value}: {said}"):
        check_settings({name: value})


@pytest.mark.parametrize("points", [[], [1], [1, 1, 2], [2, 1], [1, None], ["1", "2"]])
def test_points_of_a_scale_are_numbers_that_increase(points):
    check_settings({"soft_label_points": [0, 0.5, 100]})
    with pytest.raises(InputError, match=re.escape(f"soft_label_points is {points}: give the points of the labels'")):
        check_settings({"soft_label_points": points})


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"], ["a", 1]])
def test_classes_are_names_that_differ(classes):
    check_settings({"emotion_classes": ["a", "b"]})
    with pytest.raises(InputError, match=re.escape(f"emotion_classes is {classes}: give the classes to learn")):
        check_settings({"emotion_classes": classes})


def test_adapters_need_layers():
    with pytest.raises(InputError, match="^lora_rank is 4, and trainable_layers 0: say by --trainable_layers how many"):
        check_settings({"lora_rank": 4, "trainable_layers": 0})
    check_settings({"lora_rank": 4, "trainable_layers": 1})
    check_settings({"lora_rank": 0, "trainable_layers": 0})


def test_what_only_reads_has_no_speech_to_augment():
    with pytest.raises(InputError, match="^fea_augment is of speech, and bert_base only reads: give null.$"):
        check_settings({"system": "bert_base", "wav_augment": None, "fea_augment": {"!": "new:Augmenter"}})


def test_batches_of_a_length_are_by_length_and_of_rated_speech():
    check_settings(settings := {"max_batch_s": 180, "batches": "by_length", "unrated_manifest": None})
    with pytest.raises(
        InputError, match="^max_batch_s is 180, and batches shuffled: give --batches=by_length, or null"
    ):
        check_settings(settings | {"batches": "shuffled"})
    with pytest.raises(InputError, match="^max_batch_s is 180, and a batch has unrated_batch_size utterances of unr"):
        check_settings(settings | {"unrated_manifest": "train.csv"})
    check_settings(settings | {"max_batch_s": None, "unrated_manifest": "train.csv"})


def test_the_ends_of_the_ranges_are_in_range():
    check_settings({"batch_size": 1, "num_workers": 0, "lr": 0, "residual_threshold": 0, "max_grad_norm": 1e-9})
    check_settings({"residual_threshold": None, "max_grad_norm": None})


TEACHING = {"taught": "text", "trust": "per_dimension", "residual_threshold": 2, "prediction_weight": 1, "ts_weight": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trust": "soft", "residual_threshold": None}, "trust is soft, and residual_threshold is None: give a number"),
        ({"trust": "soft", "residual_threshold": 0}, "trust is soft, and residual_threshold is 0: give a number"),
        ({"residual_threshold": None}, "trust is per_dimension, and residual_threshold is None: give a number"),
        (
            {"prediction_weight": 0.0},
            "trust is per_dimension, which is of the teacher's prediction, and prediction_wei",
        ),
        ({"ts_weight": 0}, "taught is text, and ts_weight is 0, so no embedding is taught"),
    ],
)
def test_what_would_have_no_effect_on_a_student_is_refused(changes, said):
    check_settings(TEACHING)
    check_settings(TEACHING | {"taught": "joint", "trust": "cut", "residual_threshold": None, "ts_weight": 0})
    with pytest.raises(InputError, match=f"^{said}"):
        check_settings(TEACHING | changes)


def test_parts_of_a_batch_have_no_ccc_of_the_whole():
    check_settings({"grad_accumulation_factor": 2})  # a loss that is a mean over the batch
    check_settings({"ccc_weights": None, "grad_accumulation_factor": 1})
    with pytest.raises(InputError, match="^grad_accumulation_factor is 2, and the CCC of a batch is not the mean of"):
        check_settings({"ccc_weights": None, "grad_accumulation_factor": 2})


def options(**given):
    return dataclasses.replace(RunOptions(device="cpu"), **given)


@pytest.mark.parametrize(
    "given",
    [
        {"jit": True},
        {"jit_module_keys": ["model"]},
        {"remove_vector_weight_decay": True},
        {"data_parallel_backend": True},
        {"auto_mix_prec": True},
        {"bfloat16_mix_prec": True},
    ],
)
def test_options_without_effect_or_use_are_refused(given):
    with pytest.raises(InputError, match=f"^--{next(iter(given))} can't be used here: "):
        check_run_options(options(**given), {})


@pytest.mark.parametrize("name", ["precision", "eval_precision"])
def test_half_precision_needs_a_gpu(name):
    with pytest.raises(InputError, match=f"^{name} is fp16, which needs a GPU"):
        check_run_options(options(), {name: "fp16"})
    check_run_options(options(), {name: "bf16"})


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="^The device 'cuda:99' can't be used"):
        check_run_options(options(device="cuda:99"), {})


def test_checkpoints_come_by_minutes_or_by_steps():
    with pytest.raises(InputError, match="^--ckpt_interval_minutes and --ckpt_interval_steps are given: keep one.$"):
        check_run_options(options(ckpt_interval_minutes=1, ckpt_interval_steps=1), {})
    check_run_options(options(ckpt_interval_steps=1), {})
