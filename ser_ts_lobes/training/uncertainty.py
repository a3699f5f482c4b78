"""Where the teacher can be trusted without a label: how far its predictions spread when it hears and reads less.

The residual rule (`ser_ts_lobes.training.residuals`) needs ratings. This one asks the teacher itself: it predicts an
utterance several times, each time without some of the features of its frames and tokens. Where both keep the same share
of the utterances they can be compared (`compare_rules`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results.metrics import finite_array, pearson
from ser_ts_lobes.seeds import derive_seed

if TYPE_CHECKING:
    from ser_ts_lobes.lobes.emotion import EmotionModel

# Of a model's inputs, those whose features are dropped.
_DROPPED = ("frames", "tokens")


@dataclass(frozen=True)
class DropoutSpread:
    """Tells how sure a model is by the spread of its predictions under dropout of what it is given.

    Of each frame and each token of an utterance the same features are dropped in a pass (as in Gal and Ghahramani 2016:
    what differs from frame to frame would average out in the pooling), the others scaled up. Which, follows from seed,
    utterance and pass alone, so that neither the batch nor the device matters.

    The model was trained without that dropout: it tells how much of what it says hangs on a part of what it hears and
    reads, and is no probability.

    Parameters
    ----------
    n_passes
        Predictions of each utterance, 2 or more.
    dropout
        Share of the features dropped in each, above 0 and below 1.
    seed
        Of the run.

    Raises
    ------
    InputError
        If a value is out of range.

    Example
    -------
    >>> from ser_ts_lobes.lobes.emotion import EmotionModel
    >>> from ser_ts_lobes.lobes.pooling import GRUPooling
    >>> model = EmotionModel(speech_pooling=GRUPooling(16))
    >>> inputs = {"frames": torch.randn(2, 50, 16), "frame_lens": torch.ones(2)}
    >>> DropoutSpread(n_passes=5, dropout=0.2, seed=1986).of(model, inputs, ["a", "b"]).shape
    torch.Size([2, 3])
    """

    n_passes: int
    dropout: float
    seed: int

    def __post_init__(self) -> None:
        if not (isinstance(self.n_passes, int) and self.n_passes >= 2):
            raise InputError(f"spread_passes is {self.n_passes}: give a whole number from 2 on.")
        if not 0 < self.dropout < 1:
            raise InputError(f"spread_dropout is {self.dropout}: give a number above 0 and below 1.")

    def __str__(self) -> str:
        return f"{self.n_passes} passes, dropout {self.dropout:g}, seed {self.seed}"

    @torch.no_grad()
    def of(self, model: "EmotionModel", inputs: Mapping[str, torch.Tensor], utterances: Sequence[str]) -> torch.Tensor:
        """Return the standard deviation of each utterance's predictions.

        Parameters
        ----------
        model
            In evaluation mode.
        inputs
            What it takes: ``frames`` (B, T, D) and ``tokens`` (B, U, E), as far as it has them, and their lengths.
        utterances
            B ids.

        Returns
        -------
        torch.Tensor
            float64, (B, 3): population standard deviations over the passes, on the scale of the model's predictions.
        """
        masks = {
            key: torch.stack([self._masks(utterance, key, inputs[key].shape[2]) for utterance in utterances], dim=1)
            for key in _DROPPED
            if key in inputs
        }
        predictions = []
        for number in range(self.n_passes):  # one by one: side by side they are slower on a CPU, and take more memory
            dropped = {key: inputs[key] * mask[number].unsqueeze(1).to(inputs[key]) for key, mask in masks.items()}
            predictions.append(model(**{**inputs, **dropped}).prediction.double())
        return torch.stack(predictions).std(dim=0, correction=0)

    def _masks(self, utterance: str, key: str, size: int) -> torch.Tensor:
        """Give what an utterance's features are multiplied with in each pass, (n_passes, size)."""
        digest = hashlib.sha256(f"{key} {utterance}".encode()).digest()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, int.from_bytes(digest[:8])))
        kept = torch.rand(self.n_passes, size, generator=generator) >= self.dropout
        return kept / (1 - self.dropout)


def keep_surest(spread: ArrayLike, share: float) -> np.ndarray:
    """Return which utterances the student learns from: those that the teacher is surest of.

    An utterance counts with its largest spread of all dimensions; kept are those up to the quantile of `share`. Give
    the spreads of the whole set: a teacher is surer of what it has learnt from, so that each set has a quantile of its
    own.

    Parameters
    ----------
    spread
        (N, D), >= 0, on a scale on which the dimensions are alike.
    share
        Of the utterances to keep, above 0 and up to 1; of equal spreads all are kept or none.

    Returns
    -------
    numpy.ndarray
        bool, shape (N,), True where kept: `share` of them, rounded up, unless spreads are equal.

    Raises
    ------
    InputError
        If a spread isn't finite, there is no utterance, or the share is out of range.

    Example
    -------
    >>> keep_surest([[0.1, 0.1], [0.0, 0.9], [0.2, 0.3], [0.1, 0.2]], share=0.5).tolist()
    [True, False, False, True]
    """
    s = finite_array(spread, "spread")
    if s.ndim != 2 or len(s) == 0:
        raise InputError(f"spread has shape {s.shape}; it has to be (utterances, dimensions).")
    if not 0 < share <= 1:
        raise InputError(f"The share of utterances to keep is {share}: give a number above 0 and up to 1.")
    largest = s.max(axis=1)
    kept: np.ndarray = largest <= np.quantile(largest, share, method="inverted_cdf")
    return kept


@dataclass(frozen=True)
class RuleComparison:
    """How far two rules agree on what to leave out; shares of all utterances, in 0-1.

    Attributes
    ----------
    by_residual, by_spread
        Shares that each leaves out.
    by_both
        Share that both leave out.
    by_both_by_chance
        What that would be of rules that know nothing of one another.
    rank_correlation
        Spearman's, of absolute residual and spread, a dimension; NaN where either is constant.
    """

    by_residual: float
    by_spread: float
    by_both: float
    by_both_by_chance: float
    rank_correlation: dict[str, float]

    def for_json(self) -> dict[str, Any]:
        """Give all as a dict; what there isn't is None."""
        correlation = {name: None if np.isnan(value) else value for name, value in self.rank_correlation.items()}
        return asdict(self) | {"rank_correlation": correlation}

    def __str__(self) -> str:
        correlations = ", ".join(f"{name} {value:.2f}" for name, value in self.rank_correlation.items())
        return (
            f"The residual rule leaves out {self.by_residual:.1%} of them, the spread of the teacher's predictions "
            f"{self.by_spread:.1%}; both leave out {self.by_both:.1%} (by chance: {self.by_both_by_chance:.1%}). Rank "
            f"correlation of absolute residual and spread: {correlations}."
        )


def compare_rules(residual: ArrayLike, spread: ArrayLike, keep: ArrayLike) -> RuleComparison:
    """Compare the rule without a label with the residual rule, of the same share of rated utterances.

    Parameters
    ----------
    residual
        (N, 3), of the training set.
    spread
        (N, 3), of the same utterances.
    keep
        bool, (N,): where the residual rule trusts the teacher; it keeps one at least.

    Returns
    -------
    RuleComparison

    Example
    -------
    >>> residual = [[0.0] * 3, [0.1] * 3, [-0.2] * 3, [3.0] * 3]
    >>> comparison = compare_rules(residual, [[0.1] * 3, [0.2] * 3, [0.3] * 3, [0.4] * 3], [True, True, True, False])
    >>> comparison.by_both, comparison.by_both_by_chance, round(comparison.rank_correlation["valence"], 6)
    (0.25, 0.0625, 1.0)
    """
    r, s, trusted = np.abs(finite_array(residual, "residual")), finite_array(spread, "spread"), np.asarray(keep)
    sure = keep_surest(s, float(trusted.mean()))
    left_out = [float(np.mean(~kept)) for kept in (trusted, sure)]
    correlation = pearson(rankdata(r, axis=0), rankdata(s, axis=0))
    return RuleComparison(
        by_residual=left_out[0],
        by_spread=left_out[1],
        by_both=float(np.mean(~trusted & ~sure)),
        by_both_by_chance=left_out[0] * left_out[1],
        rank_correlation=dict(zip(DIMENSIONS, correlation.tolist(), strict=True)),
    )
