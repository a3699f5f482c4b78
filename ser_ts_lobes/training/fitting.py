"""What networks take over from the training set before they are trained: label scale, words, standardisation."""

from typing import TYPE_CHECKING, Any

from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader

from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.training.datasets import device_of, make_training_dataset

if TYPE_CHECKING:
    from ser_ts_lobes.data.manifests import Manifest


def learn_from_training_set(manifest: "Manifest", hparams: dict[str, Any], run_opts: dict[str, Any]) -> None:
    """Let each network take what it needs to know of the training set beforehand.

    The label scale takes the labels, a text encoder the transcripts, a speech encoder its own frozen frames; most
    encoders need nothing, and nothing is computed for them. It comes before `make_datasets`: the ids of a
    `ser_ts_lobes.lobes.words.WordEncoder` are of the words that it has seen.

    Parameters
    ----------
    manifest
        Of the training set.
    hparams
        ``modules`` (``label_scale``, ``speech_encoder``, ``text_encoder``), ``valid_dataloader_opts`` and those of
        `ser_ts_lobes.training.datasets.make_training_dataset`.
    run_opts
        SpeechBrain's run options: ``device``, ``noprogressbar``.

    Raises
    ------
    InputError
        If there is nothing to learn: labels that are all the same, transcripts without words.
    """
    modules = hparams["modules"]
    modules["label_scale"].fit(manifest.labels())
    if "text_encoder" in modules:
        modules["text_encoder"].fit(row["transcript"] for row in manifest.utterances.values())
    if "speech_encoder" in modules:
        modules["speech_encoder"].fit(_frozen_batches(manifest, hparams, run_opts))


def _frozen_batches(manifest, hparams, run_opts):
    """Go once through the training set: what the frozen part of the speech encoder makes of it."""
    device = device_of(run_opts)
    encoder = hparams["modules"]["speech_encoder"].to(device)
    dataset = make_training_dataset(manifest, {"speech": encoder}, hparams, run_opts)
    dataset = dataset.filtered_sorted(sort_key="duration")
    dataset.set_output_keys(["id", "speech"])
    for batch in make_dataloader(dataset, collate_fn=PaddedBatch, **hparams["valid_dataloader_opts"]):
        yield compute_frozen(encoder, *batch.to(device).speech)
