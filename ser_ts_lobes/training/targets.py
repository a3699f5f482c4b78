"""What a trained teacher says about each utterance, kept on disk for the students."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.manifests import UNRATED
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.options import TAUGHT
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.seals import SEAL, is_intact, seal
from ser_ts_lobes.text_files import parse_json

_DTYPES = {
    "embedding": np.float32,
    "text": np.float32,
    "sentence": np.float32,
    "prediction": np.float64,
    "label": np.float64,
    "residual": np.float64,
    "spread": np.float64,
}
# What a file says of its arrays; earlier versions said no more than the first two.
_SAID, _SAID_LATER = {"ids", "made_from"}, {"arrays", SEAL}


def _array_of(kind: str) -> str:
    """Name the array that holds what ``taught`` names."""
    return "embedding" if kind == "joint" else kind


@dataclass(eq=False)
class TeacherTargets:
    """Teacher embeddings, prediction, residual and spread of each utterance, by utterance id.

    Attributes
    ----------
    ids
        N utterance ids, each once.
    embedding
        Teacher embeddings e_at, float32, shape (N, E).
    prediction, label, residual
        float64, shape (N, 3) in the order of `ser_ts_lobes.DIMENSIONS`, on the corpus's scale; residuals as
        in `ser_ts_lobes.training.residuals`. Their threshold is the student's hyper-parameter, so no mask is kept.
    made_from
        Fingerprints of what made them: "manifest", "teacher" (checkpoint), "code" (version).
    spread
        float64, (N, 3), of the predictions under dropout (`ser_ts_lobes.training.uncertainty.DropoutSpread`).
    text
        What the teacher's text branch makes of the tokens, u_t, float32, (N, H).
    sentence
        What its text encoder says of the sentence (`ser_ts_lobes.lobes.text.embed_tokens`), float32, (N, D).
    path
        The file they were loaded from, for error messages.
    """

    ids: list[str]
    embedding: np.ndarray
    prediction: np.ndarray
    label: np.ndarray | None
    residual: np.ndarray | None
    made_from: dict[str, str]
    spread: np.ndarray | None = None
    text: np.ndarray | None = None
    sentence: np.ndarray | None = None
    path: Path | None = field(default=None, kw_only=True)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; a write that is cut short leaves an older file as it was.

        Parameters
        ----------
        path
            The file to write, in an existing folder.

        Raises
        ------
        InputError
            If a value isn't finite, an id occurs twice, or the shapes don't fit.
        """
        path = Path(path)
        tensors = {
            name: np.ascontiguousarray(getattr(self, name), dtype)
            for name, dtype in _DTYPES.items()
            if getattr(self, name) is not None
        }
        problem = _problem(self.ids, self.made_from, tensors)
        if problem:
            raise InputError(f"Teacher targets for {path}: {problem}; nothing was written.")
        said = {"ids": json.dumps(self.ids), "made_from": json.dumps(self.made_from), "arrays": _digest(tensors)}
        with replacing(path) as temporary:
            temporary.write_bytes(save(tensors, seal(said)))

    @classmethod
    def load(cls, path: str | Path) -> "TeacherTargets":
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is missing, damaged, or not as it was written.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: there are no teacher targets: make them.")
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in _DTYPES.keys() & set(file.keys())}
                said = file.metadata() or {}
            ids: Any = parse_json(said.get("ids", ""), path)
            made_from: Any = parse_json(said.get("made_from", ""), path)
        except (SafetensorError, InputError) as error:
            raise _damaged(path, f"it can't be read ({error})") from error
        if said.keys() not in (_SAID, _SAID | _SAID_LATER):
            raise _damaged(path, "it doesn't say itself what it is")
        if not is_intact(said) or said.get("arrays") not in (None, _digest(tensors)):
            raise _damaged(path, "it is not as it was written")
        problem = _problem(ids, made_from, tensors)
        if problem:
            raise _damaged(path, problem)
        return cls(
            ids,
            tensors["embedding"],
            tensors["prediction"],
            tensors.get("label"),
            tensors.get("residual"),
            made_from,
            tensors.get("spread"),
            tensors.get("text"),
            tensors.get("sentence"),
            path=path,
        )

    def check(self, manifest_fingerprint: str, teacher_fingerprint: str | None = None) -> None:
        """Refuse targets that were made from something else.

        Parameters
        ----------
        manifest_fingerprint
            Of the manifest whose utterances are going to be used.
        teacher_fingerprint
            Of the teacher checkpoint; unchecked by default, for a student needs no teacher at hand.

        Raises
        ------
        InputError
            If either differs; it says which.
        """
        expected = {"manifest": manifest_fingerprint}
        if teacher_fingerprint is not None:
            expected["teacher"] = teacher_fingerprint
        differences = [
            f"another {name} ({self.made_from.get(name)}, not {fingerprint})"
            for name, fingerprint in expected.items()
            if self.made_from.get(name) != fingerprint
        ]
        if differences:
            raise InputError(f"{self._where}: made from {' and '.join(differences)}: make the teacher targets again.")

    def taught(self, kind: str) -> np.ndarray:
        """Return the embedding that a student is taught.

        Parameters
        ----------
        kind
            ``joint``: e_at. ``text``: `text`. ``sentence``: `sentence`.

        Returns
        -------
        numpy.ndarray
            float32, shape (N, size).

        Raises
        ------
        InputError
            If these targets lack it.
        """
        embedding: np.ndarray | None = getattr(self, _array_of(kind))
        if embedding is None:
            raise InputError(
                f"{self._where}: there is no {kind} embedding; an earlier version made them, or the teacher has none: "
                "make the teacher targets again."
            )
        return embedding

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Return the row of each utterance.

        Parameters
        ----------
        ids
            B utterance ids, in any order.

        Returns
        -------
        numpy.ndarray
            int64, shape (B,): indices into the arrays.

        Raises
        ------
        InputError
            If an utterance has no target; it names the first.
        """
        try:
            return np.array([self._row_of[utterance] for utterance in ids], dtype=np.int64)
        except KeyError as error:
            raise InputError(
                f"{self._where}: utterance {error.args[0]!r} has no teacher target: make the teacher targets for the "
                "manifest that holds it."
            ) from None

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {utterance: row for row, utterance in enumerate(self.ids)}

    @property
    def _where(self) -> Path | str:
        return self.path or "Teacher targets"


def targets_file(run: RunFolder, split: str, manifest_fingerprint: str) -> Path:
    """Name the file of a teacher's targets; of speech that nobody rated there is one for each manifest.

    Parameters
    ----------
    run
        The teacher's.
    split
        The manifest's name.
    manifest_fingerprint
        Its fingerprint.

    Returns
    -------
    Path

    Example
    -------
    >>> targets_file(RunFolder("teacher"), "unrated", "0123456789abcdef01").name
    'unrated-0123456789abcdef.safetensors'
    """
    return run.targets_path(f"{UNRATED}-{manifest_fingerprint[:16]}" if split == UNRATED else split)


def save_targets(folder: str | Path, targets: dict[str, TeacherTargets]) -> None:
    """Write a teacher's targets into its run, after all else that is made of them.

    So targets never stand beside tables and plots of an earlier teacher: a script that is cut before leaves that one's
    targets, which don't fit the teacher any more. What is left of such an earlier teacher in the end is removed.

    Parameters
    ----------
    folder
        The teacher's run.
    targets
        By split.
    """
    run = RunFolder(folder)
    for split, target in targets.items():
        path = targets_file(run, split, target.made_from.get("manifest", ""))
        path.parent.mkdir(exist_ok=True)
        target.save(path)
    teachers = {target.made_from.get("teacher") for target in targets.values()}
    for path in run.targets_paths():
        if TeacherTargets.load(path).made_from.get("teacher") not in teachers:
            path.unlink()
    print(f"Targets and plots: {run.path}")


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(f"{path} is damaged: {problem}. Delete it and make the teacher targets again.")


def _digest(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _problem(ids: list[str], made_from: dict[str, str], tensors: dict[str, np.ndarray]) -> str | None:
    """Return what is wrong with the parts of targets, or None."""
    if not (isinstance(ids, list) and all(isinstance(utterance, str) for utterance in ids)):
        return "its ids are no list of texts"
    if not (isinstance(made_from, dict) and all(isinstance(value, str) for value in made_from.values())):
        return "it doesn't say what it was made from"
    seen = set()
    for utterance in ids:
        if utterance in seen:
            return f"utterance {utterance!r} occurs twice"
        seen.add(utterance)
    missing = {"embedding", "prediction"} - tensors.keys()
    if len(of_rated := {"label", "residual"} - tensors.keys()) == 1:  # of rated utterances both, of others neither
        missing |= of_rated
    if missing:
        return f"there is no {min(missing)}"
    for name, values in tensors.items():
        if values.dtype != _DTYPES[name]:
            return f"{name} is {values.dtype}, not {np.dtype(_DTYPES[name])}"
        columns = values.shape[1:] if name in map(_array_of, TAUGHT) else (len(DIMENSIONS),)
        if values.ndim != 2 or values.shape != (len(ids), *columns):
            return f"{name} has shape {values.shape} for {len(ids)} utterances"
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            return f"the {name} of utterance {ids[int(np.argmin(finite))]!r} isn't finite"
    return None
