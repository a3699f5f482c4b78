"""Runs on a made-up corpus, with manifests, a log and a teacher's targets, as the scripts leave them."""

import json

import numpy as np

from ser_ts_lobes.data.manifests import Utterance, read_manifest, write_manifests
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.brains import Outputs
from ser_ts_lobes.training.residuals import fit_residuals
from ser_ts_lobes.training.targets import TeacherTargets

N, N_SPEAKERS = 240, 12
NOISE = {"ft": 0.7, "cts": 1.0, "teacher": 0.6}


def write_corpus(folder, name="made-up", label_range=(1, 7), prefix="u"):
    """Write manifests of a corpus: N utterances in test1, as many in train; return their folder."""
    random = np.random.default_rng(0)
    splits = {}
    for split, tag in (("train", "t"), ("test1", prefix)):
        splits[split] = [
            Utterance(
                f"{tag}{i:03d}",
                float(random.uniform(1, 10)),
                folder / name / f"{tag}{i:03d}.wav",
                f"{tag}_s{i % N_SPEAKERS}",
                ("Female", "Male")[i % 2],
                tuple(random.uniform(*label_range, 3)),
                "words",
                "NHSA"[i % 4],
            )
            for i in range(N)
        ]
    write_manifests(folder / "manifests" / name, splits, folder / name, "fingerprint", label_range)
    return folder / "manifests" / name


def write_run(folder, manifests, system, seed, **settings):
    """Leave what a run leaves; a teacher leaves targets, too."""
    corpus = manifests.name
    run = RunFolder(folder / corpus / system / str(seed))
    run.path.mkdir(parents=True)
    read = {split: read_manifest(manifests / f"{split}.csv") for split in ("train", "test1")}
    outputs = {split: predict(manifest, system, seed) for split, manifest in read.items()}
    settings = {
        "system": system,
        "seed": seed,
        "batch_size": 32,
        "data_folder": str(folder / corpus),
        "manifest_folder": str(manifests),
        "output_folder": str(run.path),
        **settings,
    }
    run.hyperparams_file.write_text(json.dumps(settings))
    run.train_log_file.write_text(
        "".join(
            f"epoch: {epoch}, lr: 5.00e-04 - train loss: 1.00 - valid loss: 9.0e-01, "
            f"valid ccc_activation: {0.1 * epoch:.2e}, valid ccc_valence: -2.00e-01, valid ccc_dominance: 3.00e-01\n"
            for epoch in (1, 2, 2, 3)
        )
    )
    run.write({"test1": outputs["test1"]}, read, reads=False, system=system, seed=seed)
    if system == "teacher":
        write_targets(run, outputs)
    return run


def predict(manifest, system, seed):
    """Predict with more or less noise; `cts` errs much as the teacher does."""
    ids, label = list(manifest.utterances), manifest.labels()
    teachers = np.random.default_rng(99).normal(size=label.shape)
    own = np.random.default_rng([seed, len(system)]).normal(size=label.shape)
    noise = {"teacher": teachers, "cts": (2 * teachers + own) / np.sqrt(5)}.get(system, own)
    return Outputs(ids, np.zeros((len(ids), 4), np.float32), label + NOISE[system] * noise, label)


def write_targets(run, outputs):
    """Write what the teacher says of both splits."""
    line = fit_residuals(outputs["train"].prediction, outputs["train"].label)
    run.targets_path("train").parent.mkdir()
    for split, said in outputs.items():
        residual = line.apply(said.prediction, said.label)
        TeacherTargets(said.ids, said.embedding, said.prediction, said.label, residual, {}).save(
            run.targets_path(split)
        )


def write_study(folder):
    """Write a teacher, and two seeds of two students; return the folder of the runs."""
    manifests = write_corpus(folder)
    write_run(folder, manifests, "teacher", 1)
    for seed in (1, 2):
        write_run(folder, manifests, "ft", seed)
        write_run(folder, manifests, "cts", seed, residual_threshold=1.5)
    return folder / "made-up"
