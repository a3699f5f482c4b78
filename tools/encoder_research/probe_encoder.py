"""Say how much activation, valence and dominance can be read linearly from each layer of a speech encoder.

    python -m tools.encoder_research.probe_encoder SOURCE [SOURCE ...] --corpus FOLDER [--random]

SOURCE is a hub name or a folder; FOLDER has the shape of MSP-Podcast (``Labels/labels_consensus.csv``, ``Audios/``).
The frames of a layer are averaged over each utterance, and ridge regression predicts the labels of speakers that it
was not fitted on. The CCC is over all utterances.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER
from ser_ts_lobes.data.audio import read_audio
from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.lobes.speech import SAMPLE_RATE, load_speech_encoder
from ser_ts_lobes.results.metrics import ccc
from ser_ts_lobes.text_files import read_rows

LABEL_COLUMNS = ("EmoAct", "EmoVal", "EmoDom")  # in the order of DIMENSIONS
N_FOLDS = 5
#: Candidates for the ridge penalty, in units of the number of utterances (features have unit variance).
PENALTIES = 10.0 ** np.arange(-3, 4.5, 0.5)


def read_corpus(folder):
    """Read the utterances of known speakers, of all splits.

    Parameters
    ----------
    folder : str or pathlib.Path
        In the shape of MSP-Podcast.

    Returns
    -------
    paths : list of pathlib.Path
        Audio files.
    labels : numpy.ndarray
        (utterances, 3), on the corpus's scale.
    speakers : numpy.ndarray
        (utterances,), of str.

    Raises
    ------
    InputError
        When the labels can't be read or there are fewer known speakers than folds.
    """
    table = Path(folder) / "Labels" / "labels_consensus.csv"
    paths, labels, speakers = [], [], []
    for line, row in read_rows(table, ("FileName", *LABEL_COLUMNS, "SpkrID"), key="FileName"):
        if row["SpkrID"] == UNKNOWN_SPEAKER:
            continue
        try:
            labels.append([float(row[column]) for column in LABEL_COLUMNS])
        except ValueError as error:
            raise InputError(
                f"{table}, line {line}: a label of {row['FileName']} is not a number ({error})."
            ) from error
        paths.append(Path(folder) / "Audios" / row["FileName"])
        speakers.append(row["SpkrID"])
    if len(set(speakers)) < N_FOLDS:
        raise InputError(f"{table} has {len(set(speakers))} known speakers; {N_FOLDS} folds need as many at least.")
    return paths, np.array(labels), np.array(speakers)


def mean_pooled(encoder, wavs):
    """Mean over the frames of each utterance, of what goes into the first layer and of what each gives.

    Parameters
    ----------
    encoder : ser_ts_lobes.lobes.speech.SpeechEncoder or WhisperEncoder
        Of any architecture.
    wavs : list of torch.Tensor
        (samples,) each, 16 kHz.

    Returns
    -------
    numpy.ndarray
        (layers + 1, utterances, output_size), float64.
    """
    pooled = []
    for wav in tqdm(wavs, desc="encoding", unit="utterance", leave=False):
        with torch.no_grad():
            states, _ = encoder.hidden_states(wav.unsqueeze(0), torch.ones(1))
        pooled.append(torch.stack([state[0].double().mean(dim=0) for state in states]))
    return torch.stack(pooled, dim=1).numpy()


def ridge_predictions(features, labels, test_features, penalties):
    """Fit ridge regression once for each penalty, and predict.

    Minimises ||y - b - Xw||^2 + penalty n ||w||^2 over n utterances, with features standardised by the training
    set's mean and standard deviation, from one singular value decomposition (scikit-learn's `Ridge` makes one for each
    penalty, and its `RidgeCV` knows no folds by speaker).

    Parameters
    ----------
    features : numpy.ndarray
        (n, D), to fit on.
    labels : numpy.ndarray
        (n, K).
    test_features : numpy.ndarray
        (m, D), to predict for.
    penalties : numpy.ndarray
        (P,), above 0.

    Returns
    -------
    numpy.ndarray
        (P, m, K).
    """
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.where(sd > 0, sd, 1)  # a constant feature gets weight 0
    left, singular, right = np.linalg.svd((features - mean) / sd, full_matrices=False)
    offset = labels.mean(axis=0)
    along = left.T @ (labels - offset)
    shrunk = singular / (singular**2 + len(features) * np.asarray(penalties)[:, None])
    return offset + (test_features - mean) / sd @ right.T @ (shrunk[:, :, None] * along)


def speaker_folds(speakers):
    """Deal the speakers, in the order of their names, to `N_FOLDS` folds.

    Parameters
    ----------
    speakers : numpy.ndarray
        (utterances,).

    Returns
    -------
    numpy.ndarray
        (utterances,), 0 to `N_FOLDS` - 1.

    Example
    -------
    >>> speaker_folds(np.array(["b", "a", "f", "c", "d", "e", "a"]))
    array([1, 0, 0, 2, 3, 4, 0])
    """
    return np.unique(speakers, return_inverse=True)[1] % N_FOLDS


def probe(features, labels, speakers):
    """Predict each speaker's labels from other speakers' utterances.

    The penalty of a dimension is the one with the least squared error in folds by speaker within the training set.

    Parameters
    ----------
    features : numpy.ndarray
        (utterances, D).
    labels : numpy.ndarray
        (utterances, 3).
    speakers : numpy.ndarray
        (utterances,).

    Returns
    -------
    numpy.ndarray
        (3,), CCC over all utterances.
    """
    predictions = np.empty_like(labels)
    outer = speaker_folds(speakers)
    for fold in range(N_FOLDS):
        train, test = outer != fold, outer == fold
        inner = speaker_folds(speakers[train])
        errors = 0
        for inner_fold in np.unique(inner):
            fit, check = inner != inner_fold, inner == inner_fold
            guess = ridge_predictions(features[train][fit], labels[train][fit], features[train][check], PENALTIES)
            errors = errors + np.square(guess - labels[train][check]).sum(axis=1)
        candidates = ridge_predictions(features[train], labels[train], features[test], PENALTIES)
        for dimension, best in enumerate(errors.argmin(axis=0)):
            predictions[test, dimension] = candidates[best, :, dimension]
    return ccc(predictions, labels)


def forward_ms(encoder, seconds=10, repeats=7):
    """Time a forward pass on one thread.

    Parameters
    ----------
    encoder : ser_ts_lobes.lobes.speech.SpeechEncoder or WhisperEncoder
        Of any architecture.
    seconds : int
        Length of the clip.
    repeats : int
        Passes, of which the fastest counts.

    Returns
    -------
    float
        Milliseconds of the processor, which other programs add little to.
    """
    wavs, lens = 0.05 * torch.randn(1, seconds * SAMPLE_RATE), torch.ones(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        with torch.no_grad():
            for _ in range(repeats):
                started = time.process_time()
                encoder(wavs, lens)
                times.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return 1000 * min(times)


def untrained(encoder, seed):
    """Give an encoder new, random weights.

    Parameters
    ----------
    encoder : ser_ts_lobes.lobes.speech.SpeechEncoder or WhisperEncoder
        Changed in place.
    seed : int
        Of the weights.

    Returns
    -------
    ser_ts_lobes.lobes.speech.SpeechEncoder or WhisperEncoder
        The same encoder.
    """
    torch.manual_seed(seed)
    encoder.model = type(encoder.model)(encoder.model.config).eval()
    return encoder


def report(name, encoder, wavs, labels, speakers):
    """Print the CCC of each layer, as a Markdown table; 0 is what goes into the first."""
    n_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    print(f"\n{name}: {n_parameters / 1e6:.1f} M parameters; 10 s take one core {forward_ms(encoder):.0f} ms\n")
    print(f"| layer | {' | '.join(DIMENSIONS)} |\n| ---: | ---: | ---: | ---: |")
    for number, features in enumerate(mean_pooled(encoder, wavs)):
        print(f"| {number} | " + " | ".join(f"{value:.3f}" for value in probe(features, labels, speakers)) + " |")


def main(arguments=None):
    """Probe the encoders that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="hub name or folder of a speech encoder")
    parser.add_argument("--corpus", required=True, help="folder in the shape of MSP-Podcast")
    parser.add_argument(
        "--random", action="store_true", help="also the first SOURCE's architecture with random weights"
    )
    parser.add_argument("--seed", type=int, default=1986, help="of the random weights (%(default)s)")
    options = parser.parse_args(arguments)
    with plain_errors():
        paths, labels, speakers = read_corpus(options.corpus)
        encoders = {source: load_speech_encoder(source).eval() for source in options.sources}
        if options.random:
            first = options.sources[0]
            encoders[f"{first}, random weights"] = untrained(load_speech_encoder(first).eval(), options.seed)
        wavs = [read_audio(path) for path in paths]
        print(f"{options.corpus}: {len(paths)} utterances of {len(set(speakers))} speakers; CCC in {N_FOLDS} folds")
        for name, encoder in encoders.items():
            report(name, encoder, wavs, labels, speakers)


if __name__ == "__main__":
    main()
