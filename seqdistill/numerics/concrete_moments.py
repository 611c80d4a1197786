"""The mean and the entropies of a Concrete distribution, by one integral instead of samples.

For x ~ Concrete(α, λ) neither E[x] nor the expected entropy E[H(x)] has a closed form. But a piece
drawn from x is the arg max of U_v = ln α_v + g_v + λ g'_v, so that with the distribution function F
and the density f of the noise (:mod:`seqdistill.numerics.gumbel_sums`), t over the value of the
maximum and w(t) = Π_v F(t − ln α_v),

    E[x_k]        = ∫ (f/F)(t − ln α_k) w(t) dt
    E[H(x)]       = E[g'_k of the k that wins] − γ
    E[ln Σ_v a_v] = E[max_v U_v]/λ − γ           with ln a_v = (ln α_v + g_v)/λ and x_v = a_v/Σ a
    E[ln x_v]     = (ln α_v + γ)/λ − E[ln Σ a]

γ is Euler's constant. The noises are of one law, so E[x] has the order of α for every λ. Everything
is a function of ln α_v, so the vocabulary comes in as counted points: equal or near values are one
point. Points lie on a grid by cubic interpolation, and the integral is a trapezoidal sum, so that a
row costs the same whatever V is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from seqdistill.numerics.gumbel_sums import (
    LARGEST_LOG_TEMPERATURE,
    LOWEST,
    POINTS,
    STEP,
    cubic_weights,
    noise_tables,
)

EULER_GAMMA = 0.5772156649015329
#: Scaled ln α this far below the highest count with the weight that the tail gives them: they have
#: probabilities below e^−16, and from e^−30 on the rounding of the transforms would show.
DEPTH = 16.0

_CELLS = round(DEPTH / STEP)
_GRID = _CELLS + 4  # a point between two values of the grid needs one more on either side
_TIMES = POINTS - _GRID + 1  # of the integral: up to 36, enough for V = e^25


@dataclass(frozen=True)
class CountedPoints:
    """R rows of V values as P points each.

    Attributes:
        values: (R, P) float64, ln α or logits; the highest of a row is 0.
        counts: (R, P) how many of the V have it; 0 for none.
    """

    values: Tensor
    counts: Tensor


def counted_points(logits: Tensor, width: float = 1.0 / 16, depth: float = 40.0) -> CountedPoints:
    """Return the rows of logits as points: one for each interval of values, at their mean.

    A piece with an interval of its own is exact. Those that share one are off by half of ``width``
    at most, and their mean is right: what is computed of them is off in the second order.

    Args:
        logits: (R, V), any floating dtype, finite.
        width: of an interval.
        depth: below the highest; all that is deeper shares the last interval.
    """
    gaps = logits.amax(dim=-1, keepdim=True) - logits  # (R, V) at least 0
    cells = round(depth / width)
    place = (gaps * (1.0 / width)).long().clamp_(max=cells - 1)
    counts = torch.zeros(len(logits), cells, dtype=torch.float64, device=logits.device)
    sums = torch.zeros_like(counts)
    counts.scatter_add_(1, place, counts.new_ones(()).expand_as(place))
    sums.scatter_add_(1, place, gaps.double())
    return CountedPoints(-sums / counts.clamp_min(1.0), counts)


@dataclass(frozen=True)
class ConcreteMoments:
    """What is known of R Concrete distributions; differentiable in ln α and ln λ.

    Attributes:
        total_uncertainty: (R,) H(E[x]), nats.
        data_uncertainty: (R,) E[H(x)], nats.
        epkl: (R,) expected pairwise KL, −Σ E[x] E[ln x] − E[H(x)], nats; grows as 1/λ.
    """

    total_uncertainty: Tensor
    data_uncertainty: Tensor
    epkl: Tensor
    _log_means: Tensor  # (R, _GRID) ln E[x] of a piece at each value of the grid
    _scale: Tensor  # (R,) √(1 + λ²)
    _tail: Tensor  # (R,) slope of ln E[x] far below
    _degree: Tensor  # (R,) λ
    _log_sum: Tensor  # (R,) E[ln Σ a]

    @property
    def mutual_information(self) -> Tensor:
        """(R,) H(E[x]) − E[H(x)], nats."""
        return self.total_uncertainty - self.data_uncertainty

    @property
    def reverse_mutual_information(self) -> Tensor:
        """(R,) E[KL(E[x]‖x)] = EPKL − MI, nats."""
        return self.epkl - self.mutual_information

    def at(self, rows: Tensor) -> "ConcreteMoments":
        """Return those of some rows, (N,)."""
        return ConcreteMoments(*(getattr(self, one.name)[rows] for one in fields(self)))

    @staticmethod
    def join(parts: "Sequence[ConcreteMoments]") -> "ConcreteMoments":
        """Return the rows of all parts, one after another."""
        return ConcreteMoments(
            *(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(parts[0]))
        )

    def log_means(self, log_weights: Tensor) -> Tensor:
        """Return (R, K) ln E[x_v] of pieces with ln α_v (R, K), the highest of the row at 0."""
        scaled = log_weights.double() / self._scale.unsqueeze(-1)
        first, weights = _places(scaled)
        found = sum(weights[..., k] * self._log_means.gather(1, first + k) for k in range(4))
        # Deeper than the grid: the slope of the tail.
        return found + (scaled + DEPTH).clamp_max(0.0) * self._tail.unsqueeze(-1)

    def means_of_logs(self, log_weights: Tensor) -> Tensor:
        """Return (R, K) E[ln x_v] of pieces with ln α_v (R, K), the highest of the row at 0."""
        inner = (log_weights.double() + EULER_GAMMA) / self._degree.unsqueeze(-1)
        return inner - self._log_sum.unsqueeze(-1)


def concrete_moments(points: CountedPoints, log_temperature: Tensor) -> ConcreteMoments:
    """Return mean and entropies of Concrete(α, λ), one distribution a row.

    Args:
        points: ln α of each row.
        log_temperature: (R,) ln λ, within ±:data:`~.gumbel_sums.LARGEST_LOG_TEMPERATURE`.

    Example:
        >>> two = counted_points(torch.tensor([[0.0, 0.0]]))
        >>> concrete_moments(two, torch.zeros(1)).total_uncertainty  # ln 2
        tensor([0.6931], dtype=torch.float64)
    """
    log_degree = log_temperature.double().clamp(-LARGEST_LOG_TEMPERATURE, LARGEST_LOG_TEMPERATURE)
    degree = log_degree.exp()
    scale = torch.sqrt(1.0 + degree.square())
    tail = scale / degree.clamp_min(1.0)
    grid_counts = _on_grid(points.values.double() / scale.unsqueeze(-1), points.counts, tail)
    tables = noise_tables(log_degree)
    hazard = tables.log_hazard.exp()
    below = _along(tables.log_cumulative.exp(), grid_counts, _TIMES)  # −ln w(t)
    weight = (-below).exp() * STEP
    mean = _along(hazard, weight, _GRID)  # E[x] at each value of the grid
    total = (mean * grid_counts).sum(dim=-1, keepdim=True)  # 1 but for rounding
    mean = mean / total
    inner = _along(hazard * tables.inner, weight, _GRID) / total
    data_uncertainty = (inner * grid_counts).sum(dim=-1) - EULER_GAMMA
    times = LOWEST + STEP * torch.arange(1, _TIMES + 1, dtype=mean.dtype, device=mean.device)
    of_maximum = _along(hazard, grid_counts, _TIMES) * weight / total
    highest = (of_maximum * times).sum(dim=-1) * scale
    log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    share = mean * grid_counts
    log_sum = highest / degree - EULER_GAMMA
    at_grid = _grid_values(mean) * scale.unsqueeze(-1)
    cross = (share * at_grid).sum(dim=-1)
    total_uncertainty = -(share * log_mean).sum(dim=-1)
    epkl = log_sum - (cross + EULER_GAMMA) / degree - data_uncertainty
    return ConcreteMoments(
        total_uncertainty, data_uncertainty, epkl, log_mean, scale, tail, degree, log_sum
    )


def _grid_values(like: Tensor) -> Tensor:
    """Return (G,) the scaled ln α of the grid: STEP, 0, −STEP …"""
    return STEP * (1.0 - torch.arange(_GRID, dtype=like.dtype, device=like.device))


def _places(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first of the four places (…) of values on the grid, and their weights (…, 4)."""
    depth = (-scaled).clamp(0.0, DEPTH) / STEP
    first = depth.detach().floor().clamp_max(_CELLS).long()
    return first, cubic_weights(depth - first)


def _on_grid(scaled: Tensor, counts: Tensor, tail: Tensor) -> Tensor:
    """Return (R, G) counts on the grid."""
    first, weights = _places(scaled)
    # What lies deeper than the grid is less probable by the slope of the tail.
    effective = counts * ((scaled + DEPTH).clamp_max(0.0) * tail.unsqueeze(-1)).exp()
    grid = scaled.new_zeros(len(scaled), _GRID)
    for k in range(4):
        grid = grid.scatter_add(1, first + k, effective * weights[..., k])
    return grid


def _along(table: Tensor, other: Tensor, count: int) -> Tensor:
    """Return (R, count) Σ_i table[t + i] other[i], by Fourier transforms.

    The noise at the t-th point of the integral and the i-th value of the grid is the (t + i)-th of
    the table: every integral and every sum over the grid is such a sum, in one of the two.
    """
    product: Tensor = torch.fft.rfft(table) * torch.fft.rfft(other, n=POINTS).conj()
    found: Tensor = torch.fft.irfft(product, n=POINTS)
    return found[:, :count]
