"""Say how well sentences, and their labels, can be read linearly from each layer of a speech encoder.

    python -m tools.encoder_research.probe_sentences SOURCE [SOURCE ...] --manifests FOLDER --text_source TEXT_SOURCE

SOURCE is a hub name or a folder; FOLDER has manifests with labels and transcripts. The frames of a layer are averaged
over each utterance. Ridge regression on the training set predicts the labels, of which the CCC is printed, and where
the text encoder would put the sentence: a sentence counts as found when its own embedding is nearer (cosine) to that
than those of 499 others of the set. Penalties are chosen on the validation set.
"""

import argparse

import numpy as np
import torch

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.data.manifests import find_manifests, read_manifest
from ser_ts_lobes.errors import plain_errors
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.results.metrics import ccc
from ser_ts_lobes.training.lexical import embed_sentences, recall_at
from tools.encoder_research.probe_encoder import PENALTIES, mean_pooled, ridge_predictions, untrained

N_SENTENCES = 500


def score_labels(features, labels):
    """Fit labels on the training set and score each dimension at the penalty that is best in validation.

    Parameters
    ----------
    features : dict of str to numpy.ndarray
        ``train``, ``valid`` and any others: (utterances, D).
    labels : dict of str to numpy.ndarray
        (utterances, 3) of each.

    Returns
    -------
    dict of str to numpy.ndarray
        CCC of each set but ``train``, (3,).
    """
    scores = {}
    for name in features:
        if name != "train":
            predictions = ridge_predictions(features["train"], labels["train"], features[name], PENALTIES)
            scores[name] = np.stack([ccc(predicted, labels[name]) for predicted in predictions])
    best = np.nan_to_num(scores["valid"], nan=-1).argmax(axis=0)
    return {name: by_penalty[best, range(len(best))] for name, by_penalty in scores.items()}


def find_sentences(features, embeddings, rows):
    """Fit sentence embeddings on the training set and say how many sentences are found.

    Parameters
    ----------
    features : dict of str to numpy.ndarray
        As of `score_labels`.
    embeddings : dict of str to numpy.ndarray
        (utterances, E) of each, of unit length.
    rows : dict of str to numpy.ndarray
        Of each set, the utterances to look for, each of which says something else.

    Returns
    -------
    dict of str to float
        Share of each set but ``train``, in 0-1.
    """
    found = {}
    for name in features:
        if name == "train":
            continue
        sentences = torch.from_numpy(embeddings[name][rows[name]])
        guesses = ridge_predictions(features["train"], embeddings["train"], features[name][rows[name]], PENALTIES)
        guesses = torch.nn.functional.normalize(torch.from_numpy(guesses), dim=-1).to(sentences.dtype)
        found[name] = [recall_at(guess, sentences, range(len(sentences)), (1,))[0] for guess in guesses]
    best = int(np.argmax(found["valid"]))
    return {name: by_penalty[best] for name, by_penalty in found.items()}


def different(texts, count):
    """Rows of the first `count` texts that are not the same.

    Example
    -------
    >>> different(["good", "bad", "good", "fair"], 3)
    array([0, 1, 3])
    """
    return np.sort(np.unique(np.array(texts), return_index=True)[1])[:count]


def report(name, encoder, wavs, labels, embeddings, rows):
    """Print a table of all layers, 0 being what goes into the first.

    Parameters
    ----------
    name : str
        Of the encoder.
    encoder : ser_ts_lobes.lobes.speech.SpeechEncoder or WhisperEncoder
        Of any architecture.
    wavs : dict of str to list of pathlib.Path or str
        Audio files of each set.
    labels, embeddings, rows : dict
        As of `score_labels` and `find_sentences`.
    """
    features = {split: mean_pooled(encoder, map(read_audio, paths)) for split, paths in wavs.items()}
    others = [split for split in wavs if split != "train"]
    columns = [f"{split}: {what}" for split in others for what in ("found", *DIMENSIONS)]
    print(f"\n{name}\n\n| layer | {' | '.join(columns)} |\n| ---: |{' ---: |' * len(columns)}")
    for layer in range(len(features["train"])):
        of_layer = {split: by_layer[layer] for split, by_layer in features.items()}
        scores, found = score_labels(of_layer, labels), find_sentences(of_layer, embeddings, rows)
        cells = [f"{value:.3f}" for split in others for value in (found[split], *scores[split])]
        print(f"| {layer} | {' | '.join(cells)} |", flush=True)


def spread(count, at_most):
    """Rows of at most so many, evenly spread.

    Example
    -------
    >>> spread(7, 3), spread(2, 3)
    (array([0, 2, 4]), array([0, 1]))
    """
    n_rows = min(count, at_most or count)
    return np.arange(n_rows) * count // n_rows


def main(arguments=None):
    """Probe the encoders that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="hub name or folder of a speech encoder")
    parser.add_argument("--manifests", required=True, help="folder of manifests with labels and transcripts")
    parser.add_argument("--text_source", required=True, help="the text encoder, a hub name or a folder")
    parser.add_argument("--at_most", type=int, help="utterances of each set, evenly spread (all)")
    parser.add_argument(
        "--random", action="store_true", help="also the first SOURCE's architecture with random weights"
    )
    parser.add_argument("--seed", type=int, default=1986, help="of the random weights (%(default)s)")
    options = parser.parse_args(arguments)
    with plain_errors():
        manifests = {name: read_manifest(path) for name, path in find_manifests(options.manifests).items()}
        wavs, labels, embeddings, rows = {}, {}, {}, {}
        text_encoder = TextEncoder(options.text_source)
        for name, manifest in manifests.items():
            manifest.require_transcripts()
            kept = spread(len(manifest.utterances), options.at_most)
            utterances = [list(manifest.utterances.values())[row] for row in kept]
            wavs[name], labels[name] = [row["wav"] for row in utterances], manifest.labels()[kept]
            texts = [row["transcript"] for row in utterances]
            embeddings[name], rows[name] = embed_sentences(text_encoder, texts).numpy(), different(texts, N_SENTENCES)
        print(", ".join(f"{name}: {len(paths)} utterances" for name, paths in wavs.items()))
        encoders = {source: load_speech_encoder(source).eval() for source in options.sources}
        if options.random:
            first = options.sources[0]
            encoders[f"{first}, random weights"] = untrained(load_speech_encoder(first).eval(), options.seed)
        for name, encoder in encoders.items():
            report(name, encoder, wavs, labels, embeddings, rows)


if __name__ == "__main__":
    main()
