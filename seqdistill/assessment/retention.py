"""What is left when the most uncertain sentences are taken away: retention curves and their areas.

Sentences are kept from the most certain on. Those of equal uncertainty are kept in a random order,
and every number is the expectation over those orders: the sum kept after k sentences then runs in
straight lines from tie to tie, and the areas are sums with one term a tie group. A resample is one
more row, so a bootstrap costs an array operation.

Definitions, by name:

``r_auc``, ``f1_auc``, ``f1_at_95``
    error-retention area, area of F1 over retention, and F1 at 95 % retention, as the evaluation
    code of the Shifts challenge computes them for translation (A. Malinin and others, "Shifts: a
    dataset of real distributional shift across multiple large-scale tasks", NeurIPS 2021 data sets
    track; repository Shifts-Project/shifts, ``translation/assessment``).
``aurc``, ``e_aurc``
    area under the risk-coverage curve, and what of it exceeds the best order's (Y. Geifman, G.
    Uziel, R. El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR
    2019).
``prr_lm_polygraph``
    the prediction rejection ratio of LM-Polygraph (E. Fadeeva and others, EMNLP 2023;
    ``ue_metrics/pred_rej_area.py``, ``ue_metric.py``).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from seqdistill.assessment.bootstrap import IntArray
from seqdistill.assessment.checks import FloatArray

RETENTION = 0.95  # of ``f1_at_95``


@dataclass(frozen=True)
class Retained:
    """Sums over tie groups, the most certain group first; R resamples of n sentences, G groups.

    Attributes:
        size: sentences of each group, shape (R, G); rows sum to n.
        total: sum of what is summed (errors, say) in each group, shape (R, G).
    """

    size: IntArray
    total: FloatArray

    @cached_property
    def n(self) -> int:
        """Sentences of a resample."""
        return int(self.size[0].sum())

    @cached_property
    def upto(self) -> IntArray:
        """Sentences kept with each group, (R, G)."""
        return np.cumsum(self.size, axis=1)

    @cached_property
    def before(self) -> IntArray:
        """Sentences kept before each group, (R, G)."""
        return self.upto - self.size

    @cached_property
    def total_before(self) -> FloatArray:
        """Sum kept before each group, (R, G)."""
        return np.cumsum(self.total, axis=1) - self.total

    @cached_property
    def mean(self) -> FloatArray:
        """Mean of each group, 0 where it is empty, (R, G)."""
        return self.total / np.maximum(self.size, 1)

    def kept(self, k: int) -> FloatArray:
        """Return the sum over the k most certain sentences, shape (R,)."""
        share = np.clip((k - self.before) / np.maximum(self.size, 1), 0.0, 1.0)
        kept: FloatArray = np.einsum("rg,rg->r", self.total, share)
        return kept


class Groups:
    """Tie groups of an uncertainty: sums any value over them, for all sentences or resamples.

    Args:
        uncertainty: of each sentence, shape (n,).
    """

    def __init__(self, uncertainty: FloatArray) -> None:
        self._order = np.argsort(uncertainty, kind="stable")
        ordered = uncertainty[self._order]
        is_new = np.r_[True, ordered[1:] != ordered[:-1]]
        self._starts = np.flatnonzero(is_new)
        self._group = np.cumsum(is_new) - 1  # of the sentences in order

    def retained(self, value: FloatArray, tally: IntArray | None = None) -> Retained:
        """Sum ``value`` (n,) in each group.

        Args:
            value: summed.
            tally: how often each sentence was drawn, shape (R, n); each once when None.
        """
        if tally is None:
            tally = np.ones((1, len(value)), dtype=np.int64)
        drawn = tally[:, self._order]
        return Retained(
            np.add.reduceat(drawn, self._starts, axis=1),
            np.add.reduceat(drawn * value[self._order], self._starts, axis=1),
        )

    def kept_sums(self, columns: FloatArray, tally: IntArray, k: int) -> FloatArray:
        """Sum ``columns`` (n, K) over the k most certain sentences drawn; returns (R, K)."""
        drawn = tally[:, self._order]
        size = np.add.reduceat(drawn, self._starts, axis=1)
        before = np.cumsum(size, axis=1) - size
        share = np.clip((k - before) / np.maximum(size, 1), 0.0, 1.0)  # (R, G)
        sums: FloatArray = (drawn * share[:, self._group]) @ columns[self._order]
        return sums


def retention_area(errors: Retained) -> FloatArray:
    """Return the area under the error-retention curve, shape (R,).

    The curve at k = 0 … n is the sum of the errors of the k most certain sentences over n, those
    handed over counting as free of error; the area is the mean of its n + 1 points. A random order
    gives half of the mean error.
    """
    inside = errors.total * (errors.size + 1) / 2.0  # the ramp across a group
    points = errors.size * errors.total_before + inside
    area: FloatArray = points.sum(axis=1) / (errors.n * (errors.n + 1))
    return area


def risk_coverage_area(values: Retained, *, rejected: float = 1.0) -> FloatArray:
    """Return the mean over k of the mean of the k most certain sentences, shape (R,).

    Of errors this is AURC; of qualities it is LM-Polygraph's area.

    Args:
        values: errors or qualities.
        rejected: the largest share taken away: k runs over n − int(rejected · n) + 1 … n. NaN where
            that is nothing.
    """
    first = values.n - int(rejected * values.n)
    if first == values.n:
        return np.full(len(values.size), np.nan)
    low = np.minimum(np.maximum(values.before, first), values.upto)
    # Within a group the mean of k is m + (S − m·b)/k, of group mean m and sum S of the b before.
    constant = values.mean * (values.upto - low)
    fading = (values.total_before - values.mean * values.before) * _reciprocals(
        values.n, low, values.upto
    )
    area: FloatArray = (constant + fading).sum(axis=1) / (values.n - first)
    return area


def f1_area(acceptable: Retained) -> FloatArray:
    """Return the area of F1 over retention, shape (R,); NaN where nothing is acceptable.

    Keeping k sentences, of which T(k) are acceptable out of P in all, has precision T/k and recall
    T/P, so F1(k) = 2 T(k)/(k + P). Points lie 1/(n + 1) apart from k = 0, where F1 is 0, to n, as
    in the evaluation code of Shifts, and the area is the trapezoid rule's.

    Args:
        acceptable: sums of 1 for an acceptable sentence and 0 for another.
    """
    n, positives = acceptable.n, acceptable.total.sum(axis=1)
    count = np.rint(positives).astype(np.int64)[:, None]
    # Within a group T(k) = S + m (k − b), so T/(k + P) = m + (S − m (b + P))/(k + P).
    offset = acceptable.before + count
    spread = _reciprocals(2 * n, offset, acceptable.upto + count)
    points = acceptable.mean * acceptable.size
    points = points + (acceptable.total_before - acceptable.mean * offset) * spread
    last = 2.0 * positives / (n + positives)
    area = (2.0 * points.sum(axis=1) - last / 2.0) / (n + 1)
    return np.where(positives > 0.0, area, np.nan)


def f1_at(acceptable: Retained, retention: float = RETENTION) -> FloatArray:
    """Return F1 of keeping int(retention · (n + 1)) sentences, shape (R,); NaN as in `f1_area`."""
    k = min(int(retention * (acceptable.n + 1)), acceptable.n)
    positives = acceptable.total.sum(axis=1)
    value = 2.0 * acceptable.kept(k) / np.maximum(k + positives, 1.0)
    return np.where(positives > 0.0, value, np.nan)


def lm_polygraph_ratio(quality: Retained, oracle: Retained, *, rejected: float = 1.0) -> FloatArray:
    """Return LM-Polygraph's prediction rejection ratio, shape (R,); NaN where qualities are equal.

    (A − A_random)/(A_oracle − A_random), where A is the mean quality of the k most certain
    sentences, averaged over k. The library scales qualities to [0, 1] first, which cancels in the
    ratio; it takes A_random from 1,000 shuffles, here it is their expectation, the mean quality;
    and it breaks ties in the order that a sort happens to leave, here they are shared.

    Args:
        quality: of the sentences in the order of the uncertainty.
        oracle: of the same resamples, the best first.
        rejected: the largest share rejected, the library's ``max_rejection``.
    """
    mean = quality.total.sum(axis=1) / quality.n
    spread = risk_coverage_area(oracle, rejected=rejected) - mean
    gain = risk_coverage_area(quality, rejected=rejected) - mean
    # All qualities drawn equal: what is left of the spread is rounding.
    usable = spread > 1e-12 * np.abs(oracle.mean).max()
    ratio: FloatArray = np.divide(gain, spread, out=np.full(len(gain), np.nan), where=usable)
    return ratio


def _reciprocals(largest: int, low: IntArray, high: IntArray) -> FloatArray:
    """Σ_{low < j ≤ high} 1/j, elementwise, for numbers up to ``largest``."""
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, largest + 1))])
    difference: FloatArray = harmonic[high] - harmonic[low]
    return difference
