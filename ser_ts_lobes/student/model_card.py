"""The model card of an exported student: what it is, how good it is, what it is for and not for."""

import re
from collections.abc import Iterator
from typing import Any

import huggingface_hub

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.options import TAUGHT
from ser_ts_lobes.results.text_tables import ccc_table
from ser_ts_lobes.student import space
from ser_ts_lobes.student.config import find_weakest, say_what_it_reads
from ser_ts_lobes.student.onnx import INT8_FILE, ONNX_FILE, cost_table

#: The file in the exported folder with the plot of the teacher's residuals.
RESIDUALS_FILE = "teacher_residuals.png"

_PAPER = "https://arxiv.org/abs/2112.00158"


def make_card(config: dict[str, Any], name: str, has_residuals: bool = False) -> huggingface_hub.ModelCard:
    """Write the model card of a student, with the metadata that the Hugging Face Hub reads.

    Parameters
    ----------
    config
        ``config.json`` of the student.
    name
        The model's name.
    has_residuals
        Whether the plot of its teacher's residuals travels along.

    Returns
    -------
    huggingface_hub.ModelCard
    """
    data = huggingface_hub.ModelCardData(
        model_name=name,
        library_name="speechbrain",
        pipeline_tag="audio-classification",  # the Hub's nearest task: it has none for regression from audio
        tags=["speech-emotion-recognition", "audio-regression", *DIMENSIONS],
        base_model=config["encoder"]["base_model"],
        # Not a licence of the Hub's list: it depends on those of the corpus and of the encoder.
        license="other",
        license_name="depends-on-corpus-and-encoder",
        datasets=[_slug(config["corpus"])],
        metrics=["ccc"],
        eval_results=list(_eval_results(config)),
        **space.METADATA,
    )
    sections = [_what(config, name), _USE, _results(config)]
    if has_residuals:
        sections.append(_residuals(config))
    if "onnx" in config:
        sections.append(_onnx(config))
    sections += [_limits(config), _licences(config), _files(config)]
    return huggingface_hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _slug(corpus: str) -> str:
    """Name a corpus as the Hub names data sets."""
    return re.sub(r"[^\w.-]+", "-", corpus).strip("-.") or "unnamed"


def _eval_results(config: dict[str, Any]) -> Iterator[huggingface_hub.EvalResult]:
    for split, scores in config["test"].items():
        for dimension in DIMENSIONS:
            score = scores[dimension]
            if score["ccc"] is not None:
                yield huggingface_hub.EvalResult(
                    task_type="audio-classification",
                    task_name="dimensional speech emotion recognition",
                    dataset_type=_slug(config["corpus"]),
                    dataset_name=config["corpus"],
                    dataset_split=split,
                    metric_type="ccc",
                    metric_name=f"CCC, {dimension}",
                    metric_value=score["ccc"],
                    metric_args={"dimension": dimension, "confidence_interval_95": score["ccc_95"]},
                )


def _what(config: dict[str, Any], name: str) -> str:
    low, high = config["label_range"]
    training = config["training"]
    learnt = [TAUGHT[training.get("taught", "joint")]] if training.get("ts_weight") else []
    learnt += ["predictions"] if training.get("prediction_weight") else []
    if learnt:
        where = "everywhere" if training.get("residual_threshold") is None else "where the teacher can be trusted"
        taught = (
            "It was taught by a teacher that hears *and* reads: besides the labels it learnt the teacher's "
            f"{' and '.join(learnt)}, {where} (conditional teacher-student training, [ICASSP 2022]({_PAPER}))."
        )
    else:
        taught = "It learnt from the labels alone, without a teacher."
    return f"""# {name}

Hears how activated, how positive (valence) and how dominant a voice sounds, each on a scale from {low:g} to {high:g}.
It needs no transcript. It is the system `{config["system"]}` of ser_ts_lobes, stands on the pretrained encoder
{config["encoder"]["source"]}, and was trained on {config["corpus"]}.

{taught}"""


_USE = """## Use

```python
from ser_ts_lobes.student.inference import EmotionRegressor

student = EmotionRegressor.from_pretrained("SOURCE")  # this folder, or its name on the Hub
print(student.predict_file("speech.wav"))             # Emotion(activation=..., valence=..., dominance=...)
timeline = student.predict_timeline("podcast.mp3", vad=True)
```

`from_pretrained` reads `config.json` and `model.safetensors` and runs nothing from the folder. Without the package,
stock SpeechBrain loads the same class from the file that travels along; this runs `custom_interface.py`, so trust its
source:

```python
from speechbrain.inference.interfaces import foreign_class

student = foreign_class("SOURCE", pymodule_file="custom_interface.py", classname="EmotionRegressor")
```

transformers loads the network alone, from `modeling_student.py`, which it runs as well:

```python
from transformers import AutoModel

student = AutoModel.from_pretrained("SOURCE", trust_remote_code=True)
student(wavs, attention_mask).prediction  # (B, N) at 16 kHz in -1..1, mask 1 where sound is -> (B, 3)
```

In a shell: `ser-ts predict SOURCE *.wav`. Any sampling rate, mono or stereo, in any format that libsndfile reads."""


def _results(config: dict[str, Any]) -> str:
    scored = {split: scores for split, scores in config["test"].items() if scores["activation"]["ccc"] is not None}
    if not scored:
        return "## Results\n\nIts test sets have no labels, or too few to score it."
    tables = [ccc_table({config["system"]: {"test": scored}}, split) for split in scored]
    sizes = ", ".join(f"{split}: {scores['utterances']} utterances" for split, scores in scored.items())
    units = " and ".join(sorted({scores["resampled"] for scores in scored.values()}))
    half = " They were measured before the weights were rounded to float16." if config["weights"] == "float16" else ""
    joined = "\n\n".join(tables)
    return f"""## Results

Concordance correlation coefficient (CCC) [95 % bootstrap interval over {units}] on {config["corpus"]} ({sizes}).{half}

{joined}"""


def _residuals(config: dict[str, Any]) -> str:
    return f"""## The teacher's residuals

How far the teacher was off on each utterance of the training set, against what it predicted. A conditionally taught
student (`cts`) does not follow its teacher outside the band.

![Residuals of the teacher's predictions on the training set of {config["corpus"]}]({RESIDUALS_FILE})"""


def _onnx(config: dict[str, Any]) -> str:
    onnx = config["onnx"]
    lines = [
        "## ONNX\n",
        f"`{ONNX_FILE}` runs wherever onnxruntime does; it gives what PyTorch gives within 0.001. Inputs: `waveform`,",
        "(batch, samples) float32, 16 kHz, full scale -1 to 1; `lengths`, (batch,) int64, samples of each. Outputs:",
        "`prediction`, (batch, 3) float32, activation, valence, dominance; `embedding`, (batch, size) float32.",
    ]
    if INT8_FILE in onnx["bytes"]:
        lines.append(f"\n`{INT8_FILE}`: the same with matrix products in 8-bit integers.")
        lines += [f"\n{cost_table(onnx, split)}" for split in onnx["ccc"]] or ["What that costs was not measured."]
    return "\n".join(lines)


def _limits(config: dict[str, Any]) -> str:
    mean = ", ".join(
        f"{dimension} {value:.2f}" for dimension, value in zip(DIMENSIONS, config["label_mean"], strict=True)
    )
    durations = config.get("training_durations_s")
    lengths = (
        "Nearly all clips that it was trained on last between {shortest:.1f} and {longest:.1f} s, half of them less "
        "than {median:.1f} s. Others, and silence around the words, make it less sure (`ser-ts predict --vad` leaves "
        "the silence out).\n- "
    )
    lengths = lengths.format(**durations) if durations else ""
    return f"""## Intended use and limits

For research on how speech *sounds*, and for tools whose users know that they are heard and can object: search in one's
own recordings, statistics over many recordings, dialogue systems.

- It tells what listeners would perceive, not what a person feels. It is not for decisions about people: hiring,
  policing, health, education, insurance, credit. In the European Union the AI Act (article 5) forbids, with few
  exceptions, inferring emotions at work and in schools.
- It knows the language, the culture, the speakers and the microphones of {config["corpus"]}. Elsewhere, and for voices
  that are rare there, measure it first.
- {_weakest(config)}
- Predictions shrink towards the training labels' mean ({mean}); extreme emotions come out too mild.
- {lengths}Music, silence and noise get a value, too; it means nothing."""


def _weakest(config: dict[str, Any]) -> str:
    words = f"Valence lives in words more than in sound, and this student {say_what_it_reads(config)}"
    weakest = find_weakest(config)
    if weakest == "valence":
        return f"{words}: trust it least there, where its CCC is lowest."
    return f"Trust {weakest} least, where its CCC is lowest. {words}." if weakest else f"{words}."


def _licences(config: dict[str, Any]) -> str:
    counts = config["counts"]
    sets = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"""## Training data and licences

Trained on {config["corpus"]} (utterances: {sets}). No recording and no single label is in this folder: only label
statistics (range, mean, standard deviation, a histogram). Whether a model trained on it may be shared, and what it may
be used for, is said by the licence of the corpus (that of many allows research alone) and by that of the
pretrained encoder, {config["encoder"]["source"]}. **Check both before you publish or use this model.** The code in
`custom_interface.py` and `modeling_student.py` is licensed under Apache 2.0."""


def _files(config: dict[str, Any]) -> str:
    training = ", ".join(f"{key} {value}" for key, value in config["training"].items())
    versions = ", ".join(f"{package} {version}" for package, version in config["versions"].items())
    return f"""## Files and settings

| file | |
| --- | --- |
| `model.safetensors` | all weights, the encoder's too, in {config["weights"]} |
| `config.json` | all that the network is made from; label statistics and scores |
| `hyperparams.yaml`, `custom_interface.py` | for SpeechBrain |
| `modeling_student.py` | for transformers |
| `{space.APP_FILE}`, `{space.REQUIREMENTS_FILE}` | the demo page (`python {space.APP_FILE}`), also as a Space |

Training: {training}; best epoch {config["best"]["epoch"]}. Versions: {versions}."""
