"""A student as an ONNX file, for C++, C#, Java, Rust, JavaScript: whatever onnxruntime runs in.

Inputs of the file, for a batch of B waveforms of which the longest has N samples:

- ``waveform``: (B, N) float32, 16 kHz, full scale -1 to 1; what is behind a waveform's end does not matter,
- ``lengths``: (B,) int64, samples of each waveform, 1 to N;

outputs: ``prediction``, (B, 3) float32, activation, valence, dominance on the corpus's scale, and ``embedding``,
(B, E) float32. B and N may differ from call to call.
"""

import contextlib
import copy
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.data.manifests import read_manifest
from ser_ts_lobes.errors import InputError, needs_extra
from ser_ts_lobes.files import replacing
from ser_ts_lobes.lobes.pooling import GRUPooling
from ser_ts_lobes.lobes.speech import ListenerEncoder
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.text_tables import markdown_table

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ser_ts_lobes.results.run_folder import RunFolder
    from ser_ts_lobes.student.network import StudentNetwork

ONNX_FILE, INT8_FILE = "model.onnx", "model.int8.onnx"

_OUTPUTS = ("prediction", "embedding")


def export_onnx(network: "StudentNetwork", path: str | Path) -> None:
    """Write a student's network as one ONNX file; it gives what PyTorch gives, within rounding.

    Parameters
    ----------
    network
        The student's network, on the CPU and in float32.
    path
        The file to write.

    Raises
    ------
    InputError
        If the packages that this needs aren't installed, or the student reads words, which no operators of ONNX spell.
    """
    _require("onnxscript")
    if isinstance(network.speech_encoder, ListenerEncoder) and network.speech_encoder.model.reader is not None:
        raise InputError(
            "A student that reads the words which it hears can't become ONNX: export it without --onnx and --int8, or "
            "train one whose speech_source is the listener alone."
        )
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, GRUPooling):
            module.add_module("gru", _OnnxGRU(module.gru))
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            _OnnxNetwork(network).eval(),
            (torch.zeros(2, 24000), torch.tensor([24000, 16000])),
            input_names=["waveform", "lengths"],
            dynamic_shapes={"waveform": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # as it would be without `dynamo`
    # Named here and not by the exporter, which does not see that WavLM has a value called "embedding" inside.
    for node in program.model.graph:
        for value in node.outputs:
            if value.name in _OUTPUTS:
                value.name = f"{value.name}_inside"
    for name, value in zip(_OUTPUTS, program.model.graph.outputs, strict=True):
        value.name = name
    with replacing(path) as temporary:
        program.save(temporary)


class _OnnxNetwork(torch.nn.Module):
    """The network with lengths in samples, as a caller has them who does not know SpeechBrain."""

    def __init__(self, network: "StudentNetwork") -> None:
        super().__init__()
        self.network = network

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.network(waveform, lengths / waveform.shape[1])
        return output.prediction, output.embedding


class _OnnxGRU(torch.nn.Module):
    """`GRUPooling`'s GRU as ONNX's own operator; PyTorch would unroll it over a fixed number of frames."""

    def __init__(self, gru: torch.nn.GRU) -> None:
        super().__init__()
        self.hidden_size = gru.hidden_size
        self.layers = torch.nn.ModuleList()
        for weight_ih, weight_hh, bias_ih, bias_hh in gru.all_weights:
            layer = torch.nn.Module()
            layer.register_buffer("w", _update_gate_first(weight_ih).unsqueeze(0))
            layer.register_buffer("r", _update_gate_first(weight_hh).unsqueeze(0))
            layer.register_buffer("b", torch.cat([_update_gate_first(bias_ih), _update_gate_first(bias_hh)])[None])
            self.layers.append(layer)

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, None]:
        n_batch, n_frames, _ = frames.shape
        hidden = frames.transpose(0, 1)
        for layer in self.layers:
            hidden, _ = torch.onnx.ops.symbolic_multi_out(
                "GRU",
                (hidden, *(layer.get_buffer(name) for name in "wrb")),
                {"hidden_size": self.hidden_size, "linear_before_reset": 1},
                dtypes=(hidden.dtype, hidden.dtype),
                shapes=((n_frames, 1, n_batch, self.hidden_size), (1, n_batch, self.hidden_size)),
            )
            hidden = hidden.squeeze(1)  # of directions
        return hidden.transpose(0, 1), None


def _update_gate_first(weights: torch.Tensor) -> torch.Tensor:
    """Bring PyTorch's order of gates, (reset, update, new), to ONNX's, (update, reset, new)."""
    reset, update, new = weights.detach().chunk(3)
    return torch.cat([update, reset, new])


def open_onnx(path: str | Path) -> "InferenceSession":
    """Open an ONNX file for `run_onnx`, on the CPU.

    Parameters
    ----------
    path
        What `export_onnx` or `quantise_onnx` wrote.

    Returns
    -------
    onnxruntime.InferenceSession
    """
    onnxruntime = _require("onnxruntime")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_onnx(session: "InferenceSession", waveforms: Sequence[np.ndarray | torch.Tensor]) -> list[np.ndarray]:
    """Run a student's ONNX file on a batch.

    Parameters
    ----------
    session
        From `open_onnx`.
    waveforms
        Each (N,), 16 kHz in -1..1, of any length.

    Returns
    -------
    prediction : numpy.ndarray
        (B, 3) float32: activation, valence, dominance on the corpus's scale.
    embedding : numpy.ndarray
        (B, E) float32.
    """
    lengths = np.array([len(waveform) for waveform in waveforms])
    batch = np.zeros((len(waveforms), lengths.max()), np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    outputs: list[np.ndarray] = session.run(_OUTPUTS, {"waveform": batch, "lengths": lengths})
    return outputs


def quantise_onnx(path: str | Path, int8_path: str | Path) -> None:
    """Write a copy whose matrix products are done in 8-bit integers (onnxruntime's dynamic quantisation).

    Convolutions and the GRU stay as they are. A prediction then depends a little on what is in the batch, for the
    scale of the integers is the batch's; one by one it does not.

    Parameters
    ----------
    path
        What `export_onnx` wrote.
    int8_path
        The file to write.
    """
    _require("onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with replacing(int8_path) as temporary, _quiet():
        quantize_dynamic(
            path,
            temporary,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            # Weights of 7 bits: with 8, sums of products overflow 16 bits on processors without VNNI, and are cut off.
            reduce_range=True,
        )


class LabelledSet(NamedTuple):
    """A labelled test set of a run, and what the run predicted there.

    Attributes
    ----------
    paths
        Audio files.
    prediction, label
        (N, 3), on the corpus's scale.
    """

    paths: list[Path]
    prediction: np.ndarray
    label: np.ndarray


def read_test_sets(run: "RunFolder", manifest_folder: str | Path, data_folder: str | Path) -> dict[str, LabelledSet]:
    """Read the labelled test sets of a run.

    Parameters
    ----------
    run
        A finished run.
    manifest_folder, data_folder
        As in the run's hyper-parameters.

    Returns
    -------
    dict[str, LabelledSet]
        By split.

    Raises
    ------
    InputError
        If a manifest is gone, or no longer holds the utterances.
    """
    test_sets = {}
    for split in run.report()["test"]:
        tested = run.predictions(split)
        path = Path(manifest_folder) / f"{split}.csv"
        utterances = read_manifest(path, data_folder).utterances
        missing = [id for id in tested.ids if id not in utterances]
        if missing:
            raise InputError(f"{path} has no {missing[0]}, which the run was tested on: prepare the corpus again.")
        paths = [Path(utterances[id]["wav"]).absolute() for id in tested.ids]
        test_sets[split] = LabelledSet(paths, tested.prediction, tested.label)
    return test_sets


def quantisation_cost(int8_path: str | Path, test_set: LabelledSet) -> dict[str, dict[str, float]]:
    """Measure what 8-bit integers cost in CCC, beside what the run itself predicted.

    Parameters
    ----------
    int8_path
        What `quantise_onnx` wrote.
    test_set
        Of two utterances or more; they are heard one by one.

    Returns
    -------
    dict[str, dict[str, float]]
        ``{dimension: {"float32": CCC, "int8": CCC}}``.

    Raises
    ------
    InputError
        If an audio file is gone.
    """
    session = open_onnx(int8_path)
    paths = tqdm(test_set.paths, "int8", unit="clip", leave=False)
    prediction = np.concatenate([run_onnx(session, [read_audio(path)])[0] for path in paths])
    float32, int8 = (metrics.ccc(values, test_set.label) for values in (test_set.prediction, prediction))
    return {dimension: {"float32": float(float32[j]), "int8": float(int8[j])} for j, dimension in enumerate(DIMENSIONS)}


def write_onnx(
    folder: Path, network: "StudentNetwork", test_sets: dict[str, LabelledSet] | None = None
) -> dict[str, Any]:
    """Write ``model.onnx`` and, if it is to be had in 8-bit integers too, ``model.int8.onnx`` with its cost.

    Parameters
    ----------
    folder
        The folder of an exported student.
    network
        The student's network.
    test_sets
        On which to measure the cost of 8-bit integers; empty to leave it unmeasured, None for no such file.

    Returns
    -------
    dict
        For ``config.json``: ``bytes`` of each file by its name; ``ccc``, `quantisation_cost` by split.
    """
    export_onnx(network, folder / ONNX_FILE)
    names, cost = [ONNX_FILE], {}
    if test_sets is not None:
        quantise_onnx(folder / ONNX_FILE, folder / INT8_FILE)
        names.append(INT8_FILE)
        cost = {split: quantisation_cost(folder / INT8_FILE, test_set) for split, test_set in test_sets.items()}
    return {"bytes": {name: (folder / name).stat().st_size for name in names}, "ccc": cost}


def cost_table(onnx: dict[str, Any], split: str) -> str:
    """Format the cost of 8-bit integers on one test set.

    Parameters
    ----------
    onnx
        From `write_onnx`.
    split
        Name of the test set.

    Returns
    -------
    str
        A Markdown table of CCCs and sizes.

    Example
    -------
    >>> ccc = {dimension: {"float32": 0.75, "int8": 0.748} for dimension in DIMENSIONS}
    >>> print(cost_table({"bytes": {ONNX_FILE: 14_400_000, INT8_FILE: 6_200_000}, "ccc": {"test1": ccc}}, "test1"))
    | CCC on test1 | activation | valence | dominance | size |
    | --- | --- | --- | --- | --- |
    | float32 | 0.750 | 0.750 | 0.750 | 14.4 MB |
    | int8 | 0.748 | 0.748 | 0.748 | 6.2 MB |
    """
    rows = []
    for kind, name in (("float32", ONNX_FILE), ("int8", INT8_FILE)):
        cells = [f"{onnx['ccc'][split][dimension][kind]:.3f}" for dimension in DIMENSIONS]
        rows.append([kind, *cells, f"{onnx['bytes'][name] / 1e6:.1f} MB"])
    return markdown_table([f"CCC on {split}", *DIMENSIONS, "size"], rows)


def _require(package: str) -> ModuleType:
    """Import a package that only ONNX needs."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise needs_extra("ONNX", package, "onnx") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporters say to their developers; errors are raised."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
