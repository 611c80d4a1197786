"""Intervals and p-values by resampling sentences.

A resample of n sentences is kept as a *tally*: how often each sentence was drawn. Everything that
is assessed is a function of sums over sentences, so a thousand resamples are one array.

The same seed and the same number of sentences draw the same sentences, whatever is computed from
them: measures of one system, and two systems that translated the same sentences, are compared on
equal terms (a *paired* bootstrap).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.signatures import bootstrap_fields, sign
from seqdistill.errors import InputError

IntArray = npt.NDArray[np.int64]

LEVEL = 0.95  # of the intervals
CHUNK = 1 << 16  # counts handled at once: half a MiB, which a cache holds


@dataclass(frozen=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: computed from all sentences.
        low: lower end of the 95 % bootstrap interval, None without a bootstrap.
        high: upper end, likewise.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One number of two systems (or of two measures) on the same sentences.

    Attributes:
        first: the number of the first.
        second: the number of the second.
        difference: first − second, with its paired-bootstrap interval.
        p_value: two-sided, of "there is no difference"; None without a bootstrap.
        resamples: bootstrap resamples in which both numbers exist, 0 for none.
        seed: of the bootstrap.
        pivotal: whether the interval is the pivotal one, for biased statistics.
    """

    first: float
    second: float
    difference: Estimate
    p_value: float | None
    resamples: int
    seed: int
    pivotal: bool = False

    @property
    def signature(self) -> str:
        """What has to be known to get the same numbers again, on one line."""
        test = {"test": "paired-bootstrap", "sides": "2"} if self.resamples else {"test": "no"}
        interval = "95-pivotal" if self.pivotal else "95"
        return sign({**test, **bootstrap_fields(self.resamples, self.seed, interval=interval)})


def check_bootstrap(resamples: int, seed: int) -> None:
    """Refuse a negative number of resamples and a negative seed.

    Raises:
        InputError: one of them is negative.
    """
    if resamples < 0 or seed < 0:
        raise InputError(
            f"resamples and seed must be 0 or more, got {resamples} resamples and seed {seed}"
        )


def resample_counts(
    stream: np.random.Generator, index: IntArray, resamples: int, width: int
) -> IntArray:
    """Draw n of n sentences with replacement and count their groups.

    Args:
        stream: where the randomness comes from.
        index: group of each sentence, shape (n,), in [0, width).
        resamples: number of rows.
        width: number of groups.

    Returns:
        Counts, shape (resamples, width); every row sums to n.
    """
    drawn = index[stream.integers(0, len(index), size=(resamples, len(index)))]
    drawn += np.arange(resamples)[:, None] * width  # a row of groups of its own for each resample
    return np.bincount(drawn.ravel(), minlength=resamples * width).reshape(resamples, width)


def tallies(n: int, resamples: int, seed: int, *, chunk: int = CHUNK) -> Iterator[IntArray]:
    """How often each of n sentences is drawn, some resamples at a time: shapes (R', n).

    The chunks change how much is held at once, not what is drawn.
    """
    stream = np.random.default_rng([seed, 0])
    identity = np.arange(n)
    rows = max(1, chunk // n)
    for start in range(0, resamples, rows):
        yield resample_counts(stream, identity, min(rows, resamples - start), n)


def estimate(value: float, replicates: FloatArray) -> Estimate:
    """Return a number with its percentile interval (Efron and Tibshirani, 1993, chapter 13).

    Args:
        value: from all sentences.
        replicates: from the resamples, shape (R,); NaN where the number does not exist. Those
            are left out, and without any other there is no interval.
    """
    drawn = replicates[~np.isnan(replicates)]
    if drawn.size == 0:
        return Estimate(value)
    low, high = _tails(drawn)
    return Estimate(value, low, high)


def pivotal_estimate(value: float, replicates: FloatArray, *, least: float) -> Estimate:
    """Return a number with its pivotal interval, 2·value − percentiles, for biased statistics.

    A mean of absolute gaps is too large on a finite sample, and on a resample of it once more, so
    a percentile interval is off by twice that bias. The pivotal interval takes it out; it may lie
    below the value, which says that the value is mostly noise (Efron and Tibshirani, 1993,
    chapter 13; Davison and Hinkley, 1997, "basic" interval).

    Args:
        value: from all sentences.
        replicates: from the resamples, shape (R,).
        least: the smallest value possible; the interval ends there.
    """
    if replicates.size == 0:
        return Estimate(value)
    low, high = _tails(replicates)
    return Estimate(value, max(least, 2.0 * value - high), max(least, 2.0 * value - low))


def compare(
    first: float, second: float, first_replicates: FloatArray, second_replicates: FloatArray, *,
    seed: int, pivotal: bool = False,
) -> Comparison:  # fmt: skip
    """Test a difference by the paired bootstrap.

    The p-value is the share of resamples whose difference strays from its own mean by as much as
    the difference observed, p = (1 + #{|d_b − mean d| ≥ |d|}) / (1 + R): the distribution under
    "no difference" is that of the resamples, moved to 0 (Riezler and Maxwell, 2005; sacreBLEU's
    paired bootstrap does the same).

    Args:
        first: the first's number from all sentences.
        second: the second's.
        first_replicates: from resamples, shape (R,), NaN where the number does not exist.
        second_replicates: from the same resamples.
        seed: of the bootstrap, for the signature.
        pivotal: the numbers are biased (calibration errors), and so is their difference where one
            is small: a percentile interval would then contradict the p-value, which looks at how
            far resamples stray from their own mean. A pivotal interval does so, too.

    Example:
        >>> a, b = np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0])
        >>> compare(2.0, 1.0, a, b, seed=0).p_value
        0.25
    """
    if first_replicates.shape != second_replicates.shape:
        raise InputError(
            "a paired bootstrap needs the same resamples of both, "
            f"got {len(first_replicates)} and {len(second_replicates)}"
        )
    # Rounding must not decide: sums of the same numbers in two orders differ in their last digits.
    slack = 1e-12 * max(abs(first), abs(second))
    difference = first - second if abs(first - second) > slack else 0.0
    drawn = first_replicates - second_replicates
    drawn = drawn[~np.isnan(drawn)]
    if drawn.size == 0:
        return Comparison(first, second, Estimate(difference), None, 0, seed)
    strays = int((np.abs(drawn - drawn.mean()) >= abs(difference) - slack).sum())
    p_value = (1 + strays) / (1 + drawn.size)
    found = (
        pivotal_estimate(difference, drawn, least=-np.inf)
        if pivotal
        else estimate(difference, drawn)
    )
    return Comparison(first, second, found, p_value, drawn.size, seed, pivotal)


def _tails(drawn: FloatArray) -> tuple[float, float]:
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)
