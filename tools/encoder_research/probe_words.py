"""Say what can be read linearly from each step of a listener, and where the words are lost.

    python -m tools.encoder_research.probe_words RUN MANIFEST_FOLDER --text_source SOURCE

RUN is what ``train_words.py`` left; MANIFEST_FOLDER has manifests with labels and transcripts. Ridge regression on the
training set predicts the labels from the mean frame of the speech encoder, that of the listener, the sentence that it
heard, what a text encoder makes of the words that it heard, and of those that were said. The penalty is chosen on the
validation set, and the CCC of both is printed; the word error rate of each set stands above.
"""

import argparse
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from speechbrain.utils.metric_stats import ErrorRateStats
from tqdm import tqdm

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.data.manifests import find_manifests, read_manifest
from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.lobes.lexical import LexicalHeads, greedy_pieces
from ser_ts_lobes.lobes.listener import LISTENER_FOLDER
from ser_ts_lobes.lobes.pieces import Pieces, plain_words
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.results.metrics import ccc
from ser_ts_lobes.training.lexical import embed_sentences
from tools.encoder_research.probe_encoder import PENALTIES, ridge_predictions

STEPS = (
    "speech encoder, mean frame",
    "listener, mean frame",
    "listener, sentence",
    "words heard, read",
    "words said, read",
)


def load_run(folder):
    """Load what ``train_words.py`` left.

    Parameters
    ----------
    folder : str or pathlib.Path
        ``results/words/<seed>``.

    Returns
    -------
    encoder : ser_ts_lobes.lobes.speech.ListenerEncoder
    heads : ser_ts_lobes.lobes.lexical.LexicalHeads
    pieces : ser_ts_lobes.lobes.pieces.Pieces

    Raises
    ------
    InputError
        If it is no finished run.
    """
    folder = Path(folder)
    for name in (f"{LISTENER_FOLDER}/listener.json", "heads.safetensors", "pieces.model"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}: name a folder that train_words.py has finished.")
    encoder = load_speech_encoder(folder / LISTENER_FOLDER).eval()
    weights = safetensors.torch.load_file(folder / "heads.safetensors")
    (n_pieces, hidden_size), n_heads = weights["pieces.weight"].shape, len(weights["scores.weight"])
    heads = LexicalHeads(hidden_size, n_pieces, len(weights["sentence.weight"]), n_heads)
    heads.load_state_dict(weights)
    return encoder, heads.eval(), Pieces((folder / "pieces.model").read_bytes())


@torch.no_grad()
def hear(encoder, heads, pieces, paths):
    """Listen to files.

    Parameters
    ----------
    encoder, heads, pieces
        From `load_run`.
    paths : iterable of str
        Audio files.

    Returns
    -------
    vectors : list of numpy.ndarray
        (N, D) of each of the first three `STEPS`.
    words : list of str
        What was heard in each.
    """
    vectors, words = ([], [], []), []
    for path in paths:
        frames, lens = encoder.model.speech(read_audio(path).unsqueeze(0), torch.ones(1))
        output = encoder.model.listener(frames, lens)
        heard = heads(output)
        for kept, vector in zip(vectors, (frames.mean(1), output.frames.mean(1), heard.sentence), strict=True):
            kept.append(vector[0].numpy())
        words.append(pieces.decode(greedy_pieces(heard)[0]))
    return [np.stack(kept) for kept in vectors], words


def probe_words(run, manifests, text_encoder, progressbar=True):
    """Probe all steps.

    Parameters
    ----------
    run : tuple
        From `load_run`.
    manifests : dict of str to ser_ts_lobes.data.manifests.Manifest
        ``train``, ``valid`` and any others, labelled and transcribed.
    text_encoder : ser_ts_lobes.lobes.text.TextEncoder
        Reads.
    progressbar : bool
        Whether to show progress.

    Returns
    -------
    error_rates : dict of str to float
        Word error rate by set, in 0-1 or more.
    scores : dict of str to dict of str to numpy.ndarray
        By step and set (all but ``train``): CCC, (3,).
    """
    features, labels, error_rates = {}, {}, {}
    for name, manifest in manifests.items():
        rows = list(manifest.utterances.values())
        paths = tqdm([row["wav"] for row in rows], desc=name, unit="utt", disable=not progressbar)
        vectors, heard = hear(*run, paths)
        said = [plain_words(row["transcript"]) for row in rows]
        read = [embed_sentences(text_encoder, words, progressbar=False).numpy() for words in (heard, said)]
        features[name], labels[name] = dict(zip(STEPS, [*vectors, *read], strict=True)), manifest.labels()
        errors = ErrorRateStats()
        errors.append(list(manifest.utterances), [text.split() for text in heard], [text.split() for text in said])
        error_rates[name] = errors.summarize("error_rate") / 100
    others = [name for name in manifests if name != "train"]
    scores = {step: {name: np.empty(len(DIMENSIONS)) for name in others} for step in STEPS}
    for step in STEPS:
        predictions = {
            name: ridge_predictions(features["train"][step], labels["train"], features[name][step], PENALTIES)
            for name in others
        }
        by_penalty = np.stack([ccc(predicted, labels["valid"]) for predicted in predictions["valid"]])
        best = np.nan_to_num(by_penalty, nan=-1).argmax(axis=0)
        for name in others:
            for dimension, penalty in enumerate(best):
                predicted = predictions[name][penalty]
                scores[step][name][dimension] = ccc(predicted, labels[name])[dimension]
    return error_rates, scores


def main(arguments=None):
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="results/words/<seed> of train_words.py")
    parser.add_argument("manifest_folder", help="manifests with labels and transcripts")
    parser.add_argument("--text_source", required=True, help="the text encoder, a hub name or a folder")
    options = parser.parse_args(arguments)
    manifests = {name: read_manifest(path) for name, path in find_manifests(options.manifest_folder).items()}
    for manifest in manifests.values():
        manifest.require_transcripts()
    error_rates, scores = probe_words(load_run(options.run), manifests, TextEncoder(options.text_source))
    for name in manifests:
        if name != "train":
            print(f"\n{name}: word error rate {error_rates[name]:.3f} (train: {error_rates['train']:.3f})\n")
            print(f"| read from | {' | '.join(DIMENSIONS)} |")
            print(f"| --- |{' --- |' * len(DIMENSIONS)}")
            for step in STEPS:
                print(f"| {step} | {' | '.join(f'{value:.3f}' for value in scores[step][name])} |")


if __name__ == "__main__":
    with plain_errors():
        main()
