"""Simulate test sets of known CCC, and count how often intervals hold and tests err: the tables of docs/report.md.

To run: ``make evidence`` (about 6 minutes of one core), or ``python -m tools.evidence --simulations 200`` first.
Speakers differ in what they feel, in how they are misheard, and a lot in how much they say (a log-normal number of
utterances, as in podcasts). The true CCC follows from the variances, so no estimate is compared with another estimate.
"""

import argparse
from typing import NamedTuple

import numpy as np
from scipy import stats

from ser_ts_lobes.results import intervals, metrics
from ser_ts_lobes.results.text_tables import markdown_table

#: How many there are, and which share of the simulations is spent on them: large sets take long.
SPEAKERS = {10: 1, 50: 1, 500: 0.25}
RESAMPLES = 999
_LABEL_STD, _SPEAKERS_LABEL_STD = 0.9, 0.45
_LABEL_VARIANCE = _LABEL_STD**2 + _SPEAKERS_LABEL_STD**2


class System(NamedTuple):
    """How predictions come about: slope * label + offset + noise of the utterance + noise of the speaker."""

    slope: float
    offset: float
    noise: float
    speaker_noise: float

    @property
    def ccc(self):
        """The true CCC."""
        variance = self.slope**2 * _LABEL_VARIANCE + self.noise**2 + self.speaker_noise**2
        return 2 * self.slope * _LABEL_VARIANCE / (variance + _LABEL_VARIANCE + self.offset**2)

    def with_ccc(self, ccc):
        """Return the same with as much noise of the utterance as gives that CCC."""
        total = 2 * self.slope * _LABEL_VARIANCE / ccc
        rest = (1 + self.slope**2) * _LABEL_VARIANCE + self.offset**2 + self.speaker_noise**2
        return self._replace(noise=np.sqrt(total - rest))


FIRST = System(slope=0.5, offset=0.1, noise=0.5, speaker_noise=0.25)
#: As good as the first, in another way: flatter, no bias, and no speaker is misheard.
OTHER = System(slope=0.4, offset=0.0, noise=0.5, speaker_noise=0.05).with_ccc(FIRST.ccc)
_SEED_STD = 0.03  # of the slope: CCCs of seeds then differ by about 0.02
#: The numbers of utterances of speakers: log-normal, with a mean of about 37.
_SIZE = (3.2, 0.9)


def draw(random, n_speakers, systems, n_seeds=1):
    """Draw a test set.

    Returns
    -------
    tuple
        Speakers (N,), labels (N, 1), and the predictions of each system, (n_seeds, N, 1). Systems mishear the same
        utterances and speakers by half.
    """
    speaker = np.repeat(np.arange(n_speakers), 1 + random.lognormal(*_SIZE, n_speakers).astype(int))
    n = len(speaker)
    label = _SPEAKERS_LABEL_STD * random.normal(size=n_speakers)[speaker] + _LABEL_STD * random.normal(size=n)
    shared, shared_of_speaker = random.normal(size=n), random.normal(size=n_speakers)
    predictions = []
    for system in systems:
        noise = (shared + random.normal(size=n)) / np.sqrt(2)
        of_speaker = ((shared_of_speaker + random.normal(size=n_speakers)) / np.sqrt(2))[speaker]
        slopes = system.slope + (_SEED_STD * random.normal(size=n_seeds) if n_seeds > 1 else np.zeros(1))
        rest = system.offset + system.noise * noise + system.speaker_noise * of_speaker
        predictions.append(slopes[:, None, None] * label[:, None] + rest[:, None])
    return speaker, label[:, None], predictions


def mean_ccc_over_seeds():
    """Return what the CCC of the first system is on average over seeds."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    cccs = [FIRST._replace(slope=FIRST.slope + _SEED_STD * node).ccc for node in nodes]
    return float(np.dot(weights, cccs) / weights.sum())


def intervals_of(speaker, label, prediction):
    """Return each method's interval of one system's CCC, by name."""
    sums, origin = metrics.group_sums(prediction[0], label, speaker)

    def of_speakers(drawn, axis=-1):
        resampled = sums[drawn].sum(axis=axis if axis >= 0 else drawn.ndim + axis)
        return metrics.STATISTICS["ccc"](metrics.moments_from_sums(resampled, origin))[..., 0]

    bca = stats.bootstrap(
        (np.arange(len(sums)),), of_speakers, n_resamples=RESAMPLES, method="BCa", rng=0, vectorized=True, batch=100
    ).confidence_interval
    return {
        "percentile bootstrap over speakers": metrics.bootstrap_ci(
            prediction[0], label, speaker, n_resamples=RESAMPLES
        ),
        "BCa bootstrap over speakers (SciPy)": np.array(bca),
        "jackknife over utterances, Fisher's z, t": intervals.estimate(prediction, label).interval,
        "jackknife over speakers, Fisher's z, t": intervals.estimate(prediction, label, speaker).interval,
    }


def coverage(n_speakers, simulations, random):
    """Return by method the share of 95 % intervals that hold the true CCC, and their mean width."""
    found: dict[str, list] = {}
    for _ in range(simulations):
        speaker, label, [prediction] = draw(random, n_speakers, [FIRST])
        for method, ends in intervals_of(speaker, label, prediction).items():
            low, high = ends.ravel()
            found.setdefault(method, []).append((low <= FIRST.ccc <= high, high - low))
        speaker, label, [prediction] = draw(random, n_speakers, [FIRST], n_seeds=3)
        low, high = intervals.estimate(prediction, label, speaker).interval[:, 0]
        found.setdefault("the same of the mean of 3 seeds", []).append(
            (low <= mean_ccc_over_seeds() <= high, high - low)
        )
    return {method: np.mean(of_method, axis=0) for method, of_method in found.items()}


def rejections(n_speakers, simulations, random, other, n_seeds=1):
    """Return by test the share of simulations in which it finds a difference between the first system and another."""
    found: dict[str, list] = {}
    for _ in range(simulations):
        speaker, label, (a, b) = draw(random, n_speakers, [FIRST, other], n_seeds)
        p_values = {"jackknife, t": intervals.compare(a, b, label, speaker).p_value[0]}
        if n_seeds == 1 and np.isclose(other.ccc, FIRST.ccc):  # a test that errs too often has no power to speak of
            paired = metrics.paired_bootstrap(a[0], b[0], label, speaker, n_resamples=RESAMPLES)
            p_values["paired bootstrap, speakers"] = paired.p_value[0]
        if n_seeds > 1:
            p_values["one seed of each, jackknife, t"] = intervals.compare(a[:1], b[:1], label, speaker).p_value[0]
        for test, p_value in p_values.items():
            found.setdefault(test, []).append(p_value < 0.05)
    return {test: np.mean(of_test) for test, of_test in found.items()}


def coverage_table(simulations, seed=0):
    """Return, in Markdown, how often intervals hold the true CCC, and in brackets how wide they are."""
    covered = {
        n: coverage(n, round(share * simulations), np.random.default_rng([seed, n])) for n, share in SPEAKERS.items()
    }
    header = ["95 % interval of the CCC", *(f"{n} speakers" for n in SPEAKERS)]
    rows = [
        [method, *(f"{100 * covered[n][method][0]:.1f} % ({covered[n][method][1]:.3f})" for n in SPEAKERS)]
        for method in covered[min(SPEAKERS)]
    ]
    return markdown_table(header, rows)


#: By name: what the first system is compared with, and how many seeds there are of each.
WORLDS = {
    "no difference: alike": (FIRST, 1),
    "no difference: as good in another way": (OTHER, 1),
    "no difference: alike, 3 seeds": (FIRST, 3),
    "0.05 better": (FIRST.with_ccc(FIRST.ccc + 0.05), 1),
    "0.05 better, 3 seeds": (FIRST.with_ccc(FIRST.ccc + 0.05), 3),
}


def rejections_table(simulations, worlds=tuple(WORLDS), seed=0):
    """Return, in Markdown, how often tests find a difference in some of the worlds."""
    rows = []
    for world in worlds:
        shares = {
            n: rejections(n, round(share * simulations), np.random.default_rng([seed, n]), *WORLDS[world])
            for n, share in SPEAKERS.items()
        }
        for test in shares[min(SPEAKERS)]:
            rows.append([world, test, *(f"{100 * shares[n][test]:.1f} %" for n in SPEAKERS)])
    return markdown_table(["other system", "test", *(f"{n} speakers" for n in SPEAKERS)], rows)


def main(arguments=None):
    """Read the command line, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulations", metavar="N", type=int, default=2000, help="of a cell (default: 2000)")
    options = parser.parse_args(arguments)
    numbers = ", ".join(f"{share * options.simulations:.0f} with {n} speakers" for n, share in SPEAKERS.items())
    print(f"Simulations of each cell: {numbers}\n\n{coverage_table(options.simulations)}\n", flush=True)
    print(rejections_table(options.simulations))


if __name__ == "__main__":
    main()
