"""A student beside a recogniser cascade: what each knows of the test set, and what it costs.

To run, from the repository's root: ``python -m benchmarks.cascade TEACHER_RUN STUDENT MANIFEST --asr SOURCE``.
TEACHER_RUN is what ``train_teacher.py`` left, STUDENT what ``ser-ts export`` wrote, MANIFEST a test set with labels. In
the cascade a recogniser (greedy) transcribes, and the teacher hears and reads what that wrote; the teacher with the
manifest's own transcripts stands beside them. All work on the same clips, one at a time and with the same threads; the
time is that of all clips on the processor, from the file to the prediction, so that other work beside does not count.
"""

import argparse
import json
import time
from functools import partial

import torch
from hyperpyyaml import load_hyperpyyaml
from tqdm import tqdm

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.data.manifests import read_manifest
from ser_ts_lobes.data.transcription import find_revision, load_recogniser, recognise
from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.results.metrics import ccc
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.results.text_tables import markdown_table
from ser_ts_lobes.student.inference import EmotionRegressor
from ser_ts_lobes.training.checkpoints import Checkpointer


def load_teacher(folder):
    """Load the best model of a run: a callable from a waveform, (N,), and its transcript to a prediction, (3,)."""
    run = RunFolder(folder)
    if not run.finished:
        raise InputError(f"{folder} is no finished run of train_teacher.py.")
    modules = load_hyperpyyaml(run.hyperparams_file.read_text(encoding="utf-8"))["modules"]
    Checkpointer(run.checkpoints, modules).recover_if_possible(min_key="valid_loss")
    for module in modules.values():
        module.eval()

    @torch.no_grad()
    def predict(wav, transcript):
        whole = torch.ones(1)
        frames = modules["speech_encoder"](wav.unsqueeze(0), whole)
        tokens = modules["text_encoder"](modules["text_encoder"].tokenize(transcript).unsqueeze(0), whole)
        return modules["label_scale"].restore(modules["model"](*frames, *tokens).prediction.double())[0]

    return predict


def time_all(predict, rows, name):
    """Predict all rows of a manifest: predictions, (U, 3), and seconds of all threads."""
    started = time.process_time()
    predictions = torch.stack([predict(row) for row in tqdm(rows, desc=name, unit="clip")])
    return predictions.double().numpy(), time.process_time() - started


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", help="results/teacher/<run>")
    parser.add_argument("student", help="an exported student")
    parser.add_argument("manifest", help="a test set with labels and transcripts")
    parser.add_argument("--asr", required=True, help="speech recogniser: a hub name or a folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="JSON of the same figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    manifest = read_manifest(options.manifest)
    manifest.require_transcripts()
    rows = list(manifest.utterances.values())
    teacher, student = load_teacher(options.teacher), EmotionRegressor.from_pretrained(options.student)
    recogniser = load_recogniser(options.asr, find_revision(options.asr), torch.device("cpu"))
    recognised = partial(recognise, recogniser, batch_size=1)
    systems = {
        "teacher, true transcripts": lambda row: teacher(read_audio(row["wav"]), row["transcript"]),
        "recogniser, then teacher": lambda row: teacher(read_audio(row["wav"]), next(recognised([row["wav"]]))),
        "student": lambda row: torch.tensor(student.predict_file(row["wav"])),
    }
    report = {}
    for name, predict in systems.items():
        predict(rows[0])  # what is loaded or compiled once
        predictions, seconds = time_all(predict, rows, name)
        scores = ccc(predictions, manifest.labels())
        report[name] = {**dict(zip(DIMENSIONS, scores.tolist(), strict=True)), "clips_per_s": len(rows) / seconds}
    slowest = report["recogniser, then teacher"]["clips_per_s"]
    table = [
        [name, *(f"{row[dimension]:.3f}" for dimension in DIMENSIONS), f"{row['clips_per_s']:.2f}"]
        + [f"{row['clips_per_s'] / slowest:.1f}"]
        for name, row in report.items()
    ]
    print(markdown_table(["system", *DIMENSIONS, "clips a processor second", "times the cascade"], table))
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump({"clips": len(rows), "threads": options.threads, "systems": report}, file, indent=2)


if __name__ == "__main__":
    with plain_errors():
        main()
