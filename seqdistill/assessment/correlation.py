"""Rank correlation, of whole vectors and of streams.

A student is faithful when its uncertainty *orders* tokens and sentences as the ensemble's does, so
the correlation is Spearman's. Whole vectors get exact average ranks (:func:`spearman`). A
validation set that passes batch by batch, perhaps on several ranks, gets histograms with fixed
bins: they are plain sums, so they add over batches and processes in any order, and
:func:`spearman_from_joint_histogram` is the exact Spearman correlation of the *binned* values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqdistill.assessment.checks import FloatArray, finite_vector, same_length
from seqdistill.errors import InputError


@dataclass(frozen=True)
class LogBins:
    """Bins of equal width in the logarithm; what falls outside counts in the first or last bin.

    Attributes:
        low: lower edge of the first bin, above 0.
        high: upper edge of the last bin.
        count: number of bins.

    Raises:
        InputError: not 0 < low < high < infinity, or fewer than one bin.
    """

    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        if not 0.0 < self.low < self.high < math.inf:
            raise InputError(f"expected 0 < low < high < inf, got {self.low} and {self.high}")
        if self.count < 1:
            raise InputError(f"expected at least one bin, got {self.count}")

    def edges(self) -> FloatArray:
        """Return the bin edges, shape (count + 1,), ascending; a bin holds its lower edge."""
        return np.geomspace(self.low, self.high, self.count + 1)


# Fixed, not chosen from the data: histograms add only if every batch, rank and run bins alike.
# 1e-8 nats is below what float32 resolves of an entropy and 1e3 above any entropy or mean KL of a
# token; precisions run from far below one count to where digamma equals the logarithm.
UNCERTAINTY_BINS = LogBins(1e-8, 1e3, 128)  # nats; neighbouring edges differ by a factor of 1.22
PRECISION_BINS = LogBins(1e-2, 1e12, 256)  # pseudo-counts; by a factor of 1.13


def average_ranks(values: Any) -> FloatArray:
    """Return ascending ranks from 1, shape (n,); equal values share the mean of their ranks.

    Raises:
        InputError: ``values`` is not a vector of finite numbers.

    Example:
        >>> average_ranks([0.5, 0.1, 0.5]).tolist()
        [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(
        finite_vector("values", values), return_inverse=True, return_counts=True
    )
    return _mid_ranks(counts.astype(np.float64))[inverse]


def spearman(first: Any, second: Any) -> float | None:
    """Return Spearman's rank correlation with average ranks (Spearman, 1904).

    Args:
        first: n finite numbers, n ≥ 2.
        second: as many, paired by position.

    Returns:
        A number in [−1, 1], or None where one side is constant: the ranks then say nothing.

    Raises:
        InputError: the vectors differ in length, are shorter than two or hold NaN or infinity.

    Example:
        >>> spearman([1.0, 2.0, 3.0], [10.0, 30.0, 20.0])
        0.5
    """
    x, y = finite_vector("first", first), finite_vector("second", second)
    if same_length(first=x, second=y) < 2:
        raise InputError("a rank correlation needs at least two pairs, got one")
    return _pearson(average_ranks(x), average_ranks(y), np.ones_like(x))


def log_histogram(
    values: Tensor, bins: LogBins = UNCERTAINTY_BINS, token_mask: Tensor | None = None
) -> Tensor:
    """Count values in log-spaced bins; the counts of batches and ranks add up.

    Args:
        values: any shape; zero, negative and infinite values count in the end bins.
        bins: where the edges are.
        token_mask: same shape, True where a value counts; all count when None.

    Returns:
        Counts, shape (bins.count,), float64 (exact below 2⁵³, and sums with other statistics),
        on the device of ``values``.

    Raises:
        InputError: a counted value is NaN, or the mask has another shape.

    Example:
        >>> h = log_histogram(torch.tensor([0.5, 2.0])) + log_histogram(torch.tensor([8.0]))
        >>> h.sum().item()
        3.0
    """
    index = _bin_index(_counted("values", values, token_mask), bins)
    return torch.bincount(index, minlength=bins.count).to(torch.float64)


def joint_log_histogram(
    first: Tensor,
    second: Tensor,
    first_bins: LogBins = UNCERTAINTY_BINS,
    second_bins: LogBins = UNCERTAINTY_BINS,
    token_mask: Tensor | None = None,
) -> Tensor:
    """Count pairs in a grid of log-spaced bins; the counts of batches and ranks add up.

    Args:
        first: any shape; picks the row.
        second: same shape; picks the column.
        first_bins: edges of the rows.
        second_bins: edges of the columns.
        token_mask: same shape, True where a pair counts; all count when None.

    Returns:
        Counts, shape (first_bins.count, second_bins.count), float64, on the device of ``first``.

    Raises:
        InputError: shapes differ or a counted value is NaN.
    """
    if first.shape != second.shape:
        raise InputError(f"expected equal shapes, got {_shape(first)} and {_shape(second)}")
    row = _bin_index(_counted("first", first, token_mask), first_bins)
    column = _bin_index(_counted("second", second, token_mask), second_bins)
    cells = first_bins.count * second_bins.count
    flat = torch.bincount(row * second_bins.count + column, minlength=cells)
    return flat.view(first_bins.count, second_bins.count).to(torch.float64)  # (rows, columns)


def spearman_from_joint_histogram(joint: Tensor) -> float | None:
    """Return Spearman's rank correlation of binned pairs, ties within a bin sharing their ranks.

    Args:
        joint: counts, shape (X, Y), such as a sum of :func:`joint_log_histogram`.

    Returns:
        A number in [−1, 1]; None when there are no pairs or one side lies in a single bin.

    Raises:
        InputError: ``joint`` is not a matrix of finite non-negative counts.

    Example:
        >>> spearman_from_joint_histogram(torch.diag(torch.tensor([2.0, 5.0, 1.0])))
        1.0
    """
    counts = _counts("joint", joint, dimensions=2)
    rows, columns = np.nonzero(counts)
    x = _mid_ranks(counts.sum(axis=1))[rows]
    y = _mid_ranks(counts.sum(axis=0))[columns]
    return _pearson(x, y, counts[rows, columns])


def histogram_quantiles(
    histogram: Tensor, quantiles: Sequence[float], bins: LogBins = UNCERTAINTY_BINS
) -> FloatArray | None:
    """Return quantiles of what was counted, log-linear within a bin.

    The error is at most the width of a bin; a quantile in an end bin may lie beyond the edge.

    Args:
        histogram: counts, shape (bins.count,), such as a sum of :func:`log_histogram`.
        quantiles: Q numbers in [0, 1].
        bins: the bins that the values were counted in.

    Returns:
        The values, shape (Q,), in the unit that was counted, or None when nothing was counted.

    Raises:
        InputError: a quantile outside [0, 1], or not bins.count finite non-negative counts.

    Example:
        >>> h = log_histogram(torch.full((100,), 0.7))
        >>> bool(abs(histogram_quantiles(h, [0.5])[0] / 0.7 - 1) < 0.25)
        True
    """
    counts = _counts("histogram", histogram, dimensions=1)
    if len(counts) != bins.count:
        raise InputError(f"expected {bins.count} bins, got {len(counts)}")
    q = finite_vector("quantiles", list(quantiles))
    if ((q < 0.0) | (q > 1.0)).any():
        raise InputError(f"quantiles must lie in [0, 1], got {q.tolist()}")
    total = counts.sum()
    if total == 0.0:
        return None
    # Walk over the occupied bins only: an empty bin has no inside to interpolate in.
    occupied = np.flatnonzero(counts)
    below = np.concatenate([[0.0], np.cumsum(counts[occupied])])
    position = np.clip(np.searchsorted(below, q * total, side="left") - 1, 0, len(occupied) - 1)
    share = (q * total - below[position]) / counts[occupied][position]
    edges = np.log(bins.edges())
    lower, upper = edges[occupied[position]], edges[occupied[position] + 1]
    return np.asarray(np.exp(lower + share * (upper - lower)), dtype=np.float64)


def _mid_ranks(counts: FloatArray) -> FloatArray:
    """Mean rank (from 1) of the members of each group, groups ascending."""
    return np.cumsum(counts) - (counts - 1.0) / 2.0


def _pearson(x: FloatArray, y: FloatArray, weight: FloatArray) -> float | None:
    """Weighted Pearson correlation, None where one side is constant."""
    # Constancy is tested on the values: the variance of equal numbers need not round to 0.
    if x.size == 0 or x.min() == x.max() or y.min() == y.max():
        return None
    x = x - np.average(x, weights=weight)
    y = y - np.average(y, weights=weight)
    covariance = float(np.sum(weight * x * y))
    spread = math.sqrt(float(np.sum(weight * x * x)) * float(np.sum(weight * y * y)))
    return max(-1.0, min(1.0, covariance / spread))


@lru_cache(maxsize=16)
def _inner_edges(bins: LogBins, device: torch.device) -> Tensor:
    return torch.from_numpy(bins.edges()[1:-1].copy()).to(device)


def _bin_index(values: Tensor, bins: LogBins) -> Tensor:
    """Bin of each value, (n,) → (n,) int64; only inner edges, so the end bins are open."""
    edges = _inner_edges(bins, values.device)
    return torch.bucketize(values.to(torch.float64), edges, right=True)


def _counted(name: str, values: Tensor, token_mask: Tensor | None) -> Tensor:
    """Flatten what counts, (…) → (n,), and refuse NaN there."""
    values = values.detach()
    if token_mask is not None:
        if token_mask.shape != values.shape:
            raise InputError(
                f"{name}: the mask has shape {_shape(token_mask)}, expected {_shape(values)}"
            )
        values = values[token_mask.to(torch.bool)]
    values = values.reshape(-1)
    if bool(torch.isnan(values).any()):
        raise InputError(f"{name}: NaN among the {values.numel()} counted values")
    return values


def _counts(name: str, histogram: Tensor, *, dimensions: int) -> FloatArray:
    counts = histogram.detach().to("cpu", torch.float64).numpy()
    if counts.ndim != dimensions:
        raise InputError(f"{name}: expected {dimensions} dimensions, got shape {counts.shape}")
    if not (np.isfinite(counts).all() and (counts >= 0.0).all()):
        raise InputError(f"{name}: counts must be finite and not negative")
    return np.asarray(counts, dtype=np.float64)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
