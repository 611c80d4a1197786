"""Does uncertainty tell good hypotheses from bad ones?

Sentences are handed to an oracle (a human translator, say) from the most uncertain on. The
*rejection curve* is the mean quality of the whole set when what was handed over counts as perfect;
it runs from the system's own quality to the best there is, and the sooner it rises the better the
uncertainty. A random order gives a straight line and the order of quality itself the oracle curve.
The prediction rejection ratio is where a curve lies between those two (Malinin and Gales, 2021,
"Uncertainty estimation in autoregressive structured prediction").
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import CHUNK as _CHUNK
from seqdistill.assessment.bootstrap import (
    Estimate,
    IntArray,
    check_bootstrap,
    estimate,
    tallies,
)
from seqdistill.assessment.checks import FloatArray, finite_vector, same_length
from seqdistill.assessment.correlation import average_ranks
from seqdistill.assessment.n_best import NBest
from seqdistill.assessment.signatures import bootstrap_fields, measure_fields, sign
from seqdistill.errors import InputError


@dataclass(frozen=True)
class RejectionResult:
    """A rejection curve and what it is worth.

    Attributes:
        prr: prediction rejection ratio: 1 for the order of quality, 0 for a random order (in
            expectation), negative for a misleading one; None when all qualities are equal.
        rejected: share of sentences handed over, shape (n + 1,), from 0 to 1.
        curve: mean quality of all sentences, those handed over counted as ``best``, (n + 1,).
        oracle: the same when the worst sentences go first, (n + 1,).
        random: the same for a random order in expectation, a straight line, (n + 1,).
        kept: mean quality of the sentences that were kept, shape (n,) (none are at the end).
        best: quality of a perfect sentence.
        n: sentences.
        measure: name of the uncertainty, None when it has none.
        quality: name of the quality, None when it has none.
        resamples: bootstrap resamples of the interval, 0 for none.
        seed: of the bootstrap.
        n_best: what the uncertainty was averaged over; None: that of the best hypotheses.
    """

    prr: Estimate | None
    rejected: FloatArray
    curve: FloatArray
    oracle: FloatArray
    random: FloatArray
    kept: FloatArray
    best: float
    n: int
    measure: str | None
    quality: str | None
    resamples: int
    seed: int
    n_best: NBest | None = None

    @property
    def signature(self) -> str:
        """What has to be known to get the same numbers again, on one line."""
        return sign(
            {
                **measure_fields(self.measure, self.n_best),
                "metric": "prr",
                "quality": self.quality or "scores",
                "best": f"{self.best:g}",
                "ties": "shared",
                "n": self.n,
                **bootstrap_fields(self.resamples, self.seed),
            }
        )


def reject(
    quality: Any,
    uncertainty: Any,
    *,
    best: float = 100.0,
    measure: str | None = None,
    quality_name: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    n_best: NBest | None = None,
) -> RejectionResult:
    """Hand sentences over from the most uncertain on, and say how well that order was chosen.

    Sentences of equal uncertainty share their mean quality: the curve is the expectation over
    the orders among them, and shuffling the input changes nothing.

    Args:
        quality: of each sentence, higher = better, shape (n,), at most ``best``.
        uncertainty: of each sentence, higher = more uncertain, shape (n,).
        best: quality of a perfect sentence: 100 for BLEU and chrF.
        measure: a name for the uncertainty, for the signature.
        quality_name: a name for the quality, for the signature.
        resamples: bootstrap resamples of the interval of the ratio; 0 for none.
        seed: of the bootstrap.
        n_best: what the uncertainty was averaged over, for the signature.

    Raises:
        InputError: lengths differ, a vector is empty or holds NaN or infinity, or a quality
            exceeds ``best``.

    Example:
        >>> result = reject([90.0, 10.0, 50.0], [0.1, 2.0, 0.7], resamples=0)
        >>> result.prr.value, result.curve.round(1).tolist()
        (1.0, [50.0, 80.0, 96.7, 100.0])
    """
    check_bootstrap(resamples, seed)
    q, u = finite_vector("quality", quality), finite_vector("uncertainty", uncertainty)
    n = same_length(quality=q, uncertainty=u)
    # Sentence scores of 100 come out as 100.00000000000004: that is rounding, not an error.
    if q.max() > best * (1.0 + 1e-9):
        raise InputError(f"a quality of {q.max():g} exceeds the best, {best:g}; set best=")
    rejected = np.arange(n + 1) / n
    shared = _share_ties(q, u)
    by_uncertainty = shared[np.argsort(-u, kind="stable")]
    curve = _curve(by_uncertainty, best)
    # Sums over the kept, from the end: k sentences handed over leave the last n − k.
    kept_sum = np.cumsum(by_uncertainty[::-1])[::-1]
    return RejectionResult(
        prr=_ratio(q, u, resamples, seed),
        rejected=rejected,
        curve=curve,
        oracle=_curve(np.sort(q), best),
        random=q.mean() + rejected * (best - q.mean()),
        kept=kept_sum / np.arange(n, 0, -1),
        best=best,
        n=n,
        measure=measure,
        quality=quality_name,
        resamples=resamples,
        seed=seed,
        n_best=n_best,
    )


def _curve(ordered: FloatArray, best: float) -> FloatArray:
    """Mean quality after handing over the first k, k = 0 … n, of ``ordered`` (n,)."""
    gain = np.concatenate([[0.0], np.cumsum(best - ordered)])
    return np.asarray(ordered.mean() + gain / len(ordered), dtype=np.float64)


def _share_ties(q: FloatArray, u: FloatArray) -> FloatArray:
    """Replace each quality by the mean over the sentences of equal uncertainty."""
    _, group, counts = np.unique(u, return_inverse=True, return_counts=True)
    return np.asarray((np.bincount(group, weights=q) / counts)[group], dtype=np.float64)


def _ratio(q: FloatArray, u: FloatArray, resamples: int, seed: int) -> Estimate | None:
    """PRR = (AUC_u − AUC_random) / (AUC_oracle − AUC_random), and its bootstrap interval.

    Under the trapezoid rule a sentence handed over as the p-th adds quality · (p − ½)/n² to the
    area, so each area is a sum of quality times position and the random one, where every
    position is (n + 1)/2 in expectation, is closed. What is left is a ratio of covariances of
    quality with rank: −cov(q, rank u) / cov(q, rank q), with average ranks for ties.
    """
    if q.min() == q.max():
        return None
    value = -_spread(q, average_ranks(u)) / _spread(q, average_ranks(q))
    return estimate(float(value), prr_replicates(q, u, resamples, seed))


def prr_replicates(q: FloatArray, u: FloatArray, resamples: int, seed: int) -> FloatArray:
    """PRR of resampled sentences, shape (resamples,); NaN where all drawn qualities are equal.

    Args:
        q: quality of each sentence, (n,).
        u: uncertainty of each sentence, (n,).
        resamples: how many.
        seed: of the bootstrap.
    """
    _, u_group = np.unique(u, return_inverse=True)
    _, q_group = np.unique(q, return_inverse=True)
    replicates = [np.empty(0)]
    for tally in tallies(len(q), resamples, seed, chunk=_CHUNK):
        numerator = _weighted_spread(q, u_group, tally)
        denominator = _weighted_spread(q, q_group, tally)
        usable = denominator > 0.0
        replicates.append(
            np.divide(-numerator, denominator, out=np.full(len(tally), np.nan), where=usable)
        )
    return np.concatenate(replicates)


def _spread(q: FloatArray, rank: FloatArray) -> float:
    return float(np.dot(q - q.mean(), rank - rank.mean()))


def _weighted_spread(q: FloatArray, group: IntArray, tally: IntArray) -> FloatArray:
    """Σ tally · q · (rank − mean rank) of each resample; groups ascending, ties share ranks.

    Args:
        q: quality, (n,).
        group: tie group of each sentence, ascending in the value ranked by, (n,).
        tally: how often each sentence was drawn, (R, n).

    Returns:
        Shape (R,).
    """
    order = np.argsort(group, kind="stable")
    tally, group, q = tally[:, order], group[order], q[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    size = np.add.reduceat(tally, starts, axis=1)  # (R, G) sentences in each tie group
    quality = np.add.reduceat(tally * q, starts, axis=1)  # (R, G) summed quality of each
    # Twice the rank about its mean: 2·(before + (size + 1)/2) − (n + 1) = 2·cumsum − size − n.
    centred = 2 * np.cumsum(size, axis=1) - size - len(q)
    spread: FloatArray = np.einsum("rg,rg->r", quality, centred.astype(np.float64)) / 2.0
    return spread
