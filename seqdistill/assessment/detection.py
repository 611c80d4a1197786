"""Does uncertainty tell out-of-domain sentences from in-domain ones?

Out-of-domain is the class to be detected: a sentence is flagged when its uncertainty reaches a
threshold. All four numbers are functions of how many sentences of each set lie at each distinct
score, so a bootstrap resample is one more row of counts and a thousand of them are one array.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

# Estimate stays importable from here.
from seqdistill.assessment.bootstrap import CHUNK as _CHUNK
from seqdistill.assessment.bootstrap import (
    Comparison,
    IntArray,
    check_bootstrap,
    compare,
    estimate,
    resample_counts,
)
from seqdistill.assessment.bootstrap import Estimate as Estimate
from seqdistill.assessment.checks import FloatArray, finite_vector
from seqdistill.assessment.n_best import NBest
from seqdistill.assessment.signatures import bootstrap_fields, measure_fields, sign
from seqdistill.errors import InputError

TPR_PERCENT = 95  # of "FPR at 95 % TPR"; an integer, so that the threshold is exact


@dataclass(frozen=True)
class DetectionResult:
    """How well one measure detects one out-of-domain set. All values lie in [0, 1].

    Attributes:
        auroc: chance that an out-of-domain sentence scores above an in-domain one, ties at half.
        aupr_out: average precision with out-of-domain as the positive class.
        aupr_in: average precision with in-domain as the positive class (low scores first).
        fpr_at_95_tpr: share of in-domain sentences flagged where at least 95 % of the
            out-of-domain ones are; lower is better.
        n_in: in-domain sentences.
        n_out: out-of-domain sentences.
        measure: name of the scores, None when they have none.
        resamples: bootstrap resamples, 0 for none.
        seed: of the bootstrap.
        n_best: what the scores were averaged over; None: those of the best hypotheses.
    """

    auroc: Estimate
    aupr_out: Estimate
    aupr_in: Estimate
    fpr_at_95_tpr: Estimate
    n_in: int
    n_out: int
    measure: str | None
    resamples: int
    seed: int
    n_best: NBest | None = None

    @property
    def signature(self) -> str:
        """What has to be known to get the same numbers again, on one line."""
        return sign(self._fields("+".join(_METRICS)))

    def signatures(self) -> dict[str, str]:
        """Return the signature of each number by its name."""
        return {metric: sign(self._fields(metric)) for metric in _METRICS}

    def _fields(self, metric: str) -> dict[str, object]:
        return {
            **measure_fields(self.measure, self.n_best),
            "metric": metric,
            **({"positive": _POSITIVE[metric]} if metric in _POSITIVE else {}),
            "ties": "half",
            "in": self.n_in,
            "out": self.n_out,
            **bootstrap_fields(self.resamples, self.seed),
        }


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC curve, from (0, 0) to (1, 1); between two points ties are one straight line.

    Attributes:
        fpr: share of in-domain sentences flagged, shape (K + 1,), ascending.
        tpr: share of out-of-domain sentences flagged, shape (K + 1,), ascending.
        thresholds: flagged are scores at or above, shape (K + 1,), descending from +inf.
    """

    fpr: FloatArray
    tpr: FloatArray
    thresholds: FloatArray


def auroc(in_scores: Any, out_scores: Any) -> float:
    """Return the area under the ROC curve, the Mann–Whitney statistic with ties at half.

    Args:
        in_scores: uncertainty of in-domain sentences, shape (n_in,), finite.
        out_scores: uncertainty of out-of-domain sentences, shape (n_out,), finite.

    Returns:
        A number in [0, 1]; 0.5 for scores that say nothing.

    Raises:
        InputError: a set is empty or holds NaN or infinity.

    Example:
        >>> auroc([0.1, 0.2, 0.3], [0.3, 0.4])
        0.9166666666666666
    """
    return float(_auroc(_point_counts(in_scores, out_scores))[0])


def aupr(in_scores: Any, out_scores: Any, positive: str = "out") -> float:
    """Return average precision, Σ (R_k − R_{k−1}) P_k over distinct scores, without interpolation.

    Args:
        in_scores: uncertainty of in-domain sentences, shape (n_in,), finite.
        out_scores: uncertainty of out-of-domain sentences, shape (n_out,), finite.
        positive: ``out`` ranks from the most uncertain down, ``in`` from the least uncertain up.

    Returns:
        A number in (0, 1]; the share of the positive class for scores that say nothing.

    Raises:
        InputError: a set is empty or holds NaN or infinity, or ``positive`` is another word.
    """
    if positive not in ("in", "out"):
        raise InputError(f"positive must be 'in' or 'out', got {positive!r}")
    function = _aupr_out if positive == "out" else _aupr_in
    return float(function(_point_counts(in_scores, out_scores))[0])


def fpr_at_95_tpr(in_scores: Any, out_scores: Any) -> float:
    """Return the share of in-domain sentences flagged when 95 % of out-of-domain ones are.

    The threshold is the highest score that flags at least 95 % of the out-of-domain sentences.

    Raises:
        InputError: a set is empty or holds NaN or infinity.
    """
    return float(_fpr_at_95_tpr(_point_counts(in_scores, out_scores))[0])


def roc_curve(in_scores: Any, out_scores: Any) -> RocCurve:
    """Return the ROC curve with one point a distinct score.

    Raises:
        InputError: a set is empty or holds NaN or infinity.
    """
    x, y = _scores(in_scores, out_scores)
    distinct, in_index, out_index = _distinct(x, y)
    tally_in = np.bincount(in_index, minlength=len(distinct))[::-1]
    tally_out = np.bincount(out_index, minlength=len(distinct))[::-1]
    return RocCurve(
        fpr=np.concatenate([[0.0], np.cumsum(tally_in) / len(x)]),
        tpr=np.concatenate([[0.0], np.cumsum(tally_out) / len(y)]),
        thresholds=np.concatenate([[np.inf], distinct[::-1]]),
    )


def detect(
    in_scores: Any,
    out_scores: Any,
    *,
    measure: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    n_best: NBest | None = None,
) -> DetectionResult:
    """Measure how well uncertainty detects out-of-domain sentences, with 95 % intervals.

    Intervals are percentiles of a bootstrap that resamples each set by itself (Efron and
    Tibshirani, 1993, chapter 13). One seed resamples the same sentences for every measure, so
    that measures of one pair of sets are compared on equal terms.

    Args:
        in_scores: uncertainty of in-domain sentences, shape (n_in,), finite.
        out_scores: uncertainty of out-of-domain sentences, shape (n_out,), finite.
        measure: a name for the scores, for the signature.
        resamples: bootstrap resamples; 0 leaves the intervals None.
        seed: of the bootstrap.
        n_best: what the scores were averaged over, for the signature.

    Raises:
        InputError: a set is empty or holds NaN or infinity; a negative number of resamples.

    Example:
        >>> result = detect([0.1, 0.2, 0.3], [0.3, 0.4], measure="mutual_information")
        >>> round(result.auroc.value, 3), result.n_in, result.n_out
        (0.917, 3, 2)
    """
    check_bootstrap(resamples, seed)
    x, y = _scores(in_scores, out_scores)
    values, replicates = _values(x, y), _replicates(x, y, resamples, seed)
    return DetectionResult(
        **{name: estimate(values[name], replicates[name]) for name in _METRICS},
        n_in=len(x),
        n_out=len(y),
        measure=measure,
        resamples=resamples,
        seed=seed,
        n_best=n_best,
    )


def compare_detection(
    first_in: Any,
    first_out: Any,
    second_in: Any,
    second_out: Any,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare the scores of two systems, or two measures, on the same sentences.

    Args:
        first_in: the first's uncertainty of the in-domain sentences, shape (n_in,).
        first_out: the first's of the out-of-domain sentences, shape (n_out,).
        second_in: the second's of the same in-domain sentences, in the same order.
        second_out: the second's of the same out-of-domain sentences.
        resamples: paired-bootstrap resamples; 0 leaves interval and p-value None.
        seed: of the bootstrap.

    Returns:
        By metric: first − second with its interval and p-value.

    Raises:
        InputError: the two differ in sentences, a set is empty or holds NaN or infinity.

    Example:
        >>> compare_detection([1, 2], [3, 4], [1, 4], [3, 2])["auroc"].difference.value
        0.5
    """
    check_bootstrap(resamples, seed)
    pairs = [_scores(first_in, first_out), _scores(second_in, second_out)]
    for which, one, other in zip(("in-domain", "out-of-domain"), *pairs, strict=True):
        if len(one) != len(other):
            raise InputError(
                f"expected the same {which} sentences of both, got {len(one)} and {len(other)}"
            )
    values = [_values(*pair) for pair in pairs]
    replicates = [_replicates(*pair, resamples, seed) for pair in pairs]
    return {
        name: compare(
            values[0][name], values[1][name], replicates[0][name], replicates[1][name], seed=seed
        )
        for name in _METRICS
    }


@dataclass(frozen=True)
class _Counts:
    """Sentences at each distinct score, ascending: R rows of resamples, K scores.

    Attributes:
        in_at: in-domain sentences with that score, shape (R, K).
        out_at: out-of-domain sentences with that score, shape (R, K).
    """

    in_at: IntArray
    out_at: IntArray

    @cached_property
    def in_upto(self) -> IntArray:
        """In-domain sentences with that score or a lower one, (R, K)."""
        return np.cumsum(self.in_at, axis=1)

    @cached_property
    def out_upto(self) -> IntArray:
        """Out-of-domain sentences with that score or a lower one, (R, K)."""
        return np.cumsum(self.out_at, axis=1)

    @cached_property
    def in_from(self) -> IntArray:
        """In-domain sentences with that score or a higher one: those flagged there, (R, K)."""
        return self.in_upto[:, -1:] - self.in_upto + self.in_at

    @cached_property
    def out_from(self) -> IntArray:
        """Out-of-domain sentences with that score or a higher one, (R, K)."""
        return self.out_upto[:, -1:] - self.out_upto + self.out_at


# The metrics, each from counts to shape (R,).


def _auroc(counts: _Counts) -> FloatArray:
    # Twice the wins, in integers: each in-domain sentence below counts 2, each tie 1.
    wins = np.einsum("rk,rk->r", counts.out_at, 2 * counts.in_upto - counts.in_at)
    pairs = counts.in_upto[:, -1] * counts.out_upto[:, -1]
    area: FloatArray = wins / (2.0 * pairs)
    return area


def _aupr_out(counts: _Counts) -> FloatArray:
    return _average_precision(counts.out_at, counts.out_from, counts.in_from)


def _aupr_in(counts: _Counts) -> FloatArray:
    return _average_precision(counts.in_at, counts.in_upto, counts.out_upto)


def _average_precision(at: IntArray, hits: IntArray, false_alarms: IntArray) -> FloatArray:
    """Σ at · hits / (hits + false alarms) over the sum of ``at``, each (R, K)."""
    # Where nothing is flagged yet there are no hits either; 0/1 keeps those columns at 0.
    precision = hits / np.maximum(hits + false_alarms, 1)
    average: FloatArray = np.einsum("rk,rk->r", at, precision) / at.sum(axis=1)
    return average


def _fpr_at_95_tpr(counts: _Counts) -> FloatArray:
    enough = 100 * counts.out_from >= TPR_PERCENT * counts.out_from[:, :1]
    # Flags only decrease with the threshold, so the last column with enough is their number − 1.
    threshold = enough.sum(axis=1) - 1
    rows = np.arange(len(threshold))
    rate: FloatArray = counts.in_from[rows, threshold] / counts.in_from[:, 0]
    return rate


_METRICS: dict[str, Callable[[_Counts], FloatArray]] = {
    "auroc": _auroc,
    "aupr_out": _aupr_out,
    "aupr_in": _aupr_in,
    "fpr_at_95_tpr": _fpr_at_95_tpr,
}
_POSITIVE = {"auroc": "out", "aupr_out": "out", "aupr_in": "in", "fpr_at_95_tpr": "out"}


def _values(x: FloatArray, y: FloatArray) -> dict[str, float]:
    """Every metric from all sentences."""
    point = _point_counts(x, y)
    return {name: float(metric(point)[0]) for name, metric in _METRICS.items()}


def _replicates(x: FloatArray, y: FloatArray, resamples: int, seed: int) -> dict[str, FloatArray]:
    """Every metric from the resamples, (R,)."""
    chunks: dict[str, list[FloatArray]] = {name: [np.empty(0)] for name in _METRICS}
    for counts in _bootstrap_counts(x, y, resamples, seed):
        for name, metric in _METRICS.items():
            chunks[name].append(metric(counts))
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def _scores(in_scores: Any, out_scores: Any) -> tuple[FloatArray, FloatArray]:
    return finite_vector("in-domain scores", in_scores), finite_vector(
        "out-of-domain scores", out_scores
    )


def _distinct(x: FloatArray, y: FloatArray) -> tuple[FloatArray, IntArray, IntArray]:
    """Distinct scores (K,) ascending, and the index of each sentence's score among them."""
    distinct, index = np.unique(np.concatenate([x, y]), return_inverse=True)
    return distinct, index[: len(x)], index[len(x) :]


def _point_counts(in_scores: Any, out_scores: Any) -> _Counts:
    distinct, in_index, out_index = _distinct(*_scores(in_scores, out_scores))
    width = len(distinct)
    return _Counts(
        np.bincount(in_index, minlength=width)[None, :],
        np.bincount(out_index, minlength=width)[None, :],
    )


def _bootstrap_counts(x: FloatArray, y: FloatArray, resamples: int, seed: int) -> Iterator[_Counts]:
    """Counts of resampled sets, some rows at a time: (R', K) of each set."""
    distinct, in_index, out_index = _distinct(x, y)
    # One stream a set: which in-domain sentences are drawn does not depend on the other set.
    in_stream, out_stream = (np.random.default_rng([seed, which]) for which in (0, 1))
    rows = max(1, _CHUNK // max(len(distinct), len(x), len(y)))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        yield _Counts(
            resample_counts(in_stream, in_index, count, len(distinct)),
            resample_counts(out_stream, out_index, count, len(distinct)),
        )
