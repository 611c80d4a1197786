"""The noise g + λ g' of two independent Gumbel variates, as tables: what a Concrete mean needs.

A piece that is drawn from a Concrete vector, y ~ x and x ~ Concrete(α, λ), is the arg max of
ln α_v + g_v + λ g'_v: the first noise makes x, the second draws from it. So every moment of x that
weighs entries by themselves is one of this noise. It is scaled to n = (g + λ g')/√(1 + λ²), of one
variance whatever λ is; n has the distribution function F and the density f, and three functions of
its value u and of ln λ are all that is wanted:

    ln(−ln F(u))        ln(f(u)/F(u))        E[g' | n = u]

They are smooth, nearly linear where they are large, and have no closed form. Here they are computed
once on a grid by the trapezoidal rule, whose error for these integrands is below 1e-9, and read by
cubic interpolation in ln λ; in u the grid is used as it is.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

#: Distance of two values of u.
STEP = 1.0 / 8
#: The lowest u: such noise is below it with probability e^−33 at most.
LOWEST = -3.5
#: Values of u on the grid: up to 60.
POINTS = 512
#: λ is from 1/64 to 64; beyond, x is one-hot or uniform for every purpose.
LARGEST_LOG_TEMPERATURE = math.log(64.0)

_LEVELS_IN_OCTAVE = 4
_NODE_STEP, _NODES = 0.4, (-4.0, 72.0)


@dataclass(frozen=True)
class NoiseTables:
    """Values on the grid of u, (..., U), float64.

    Attributes:
        log_cumulative: ln(−ln F).
        log_hazard: ln(f/F).
        inner: E[g' | n = u].
    """

    log_cumulative: Tensor
    log_hazard: Tensor
    inner: Tensor


def noise_tables(log_temperature: Tensor) -> NoiseTables:
    """Return the tables of each row's noise, differentiable.

    Args:
        log_temperature: (R,) ln λ, float64, within ±:data:`LARGEST_LOG_TEMPERATURE`.

    Returns:
        Tables of shape (R, U).
    """
    every = _every_level(log_temperature.device)  # (levels, 3, U)
    levels = every.shape[0]
    scaled = (log_temperature + LARGEST_LOG_TEMPERATURE) * (_LEVELS_IN_OCTAVE / math.log(2.0))
    first = scaled.detach().floor().clamp(1, levels - 3).long()
    weights = cubic_weights(scaled - first)  # (R, 4)
    found = sum(weights[:, k, None, None] * every[first + (k - 1)] for k in range(4))
    assert isinstance(found, Tensor)
    return NoiseTables(*found.unbind(dim=1))


def cubic_weights(place: Tensor) -> Tensor:
    """Return (..., 4) weights of values at −1, 0, 1, 2 that make the one at ``place`` in [0, 1].

    The cubic through the four (Lagrange); outside it extrapolates.

    Example:
        >>> cubic_weights(torch.tensor(0.5)) @ torch.tensor([-1.0, 0.0, 1.0, 8.0])  # cubes
        tensor(0.1250)
    """
    x = place
    return torch.stack(
        [
            -x * (x - 1) * (x - 2) / 6,
            (x + 1) * (x - 1) * (x - 2) / 2,
            -(x + 1) * x * (x - 2) / 2,
            (x + 1) * x * (x - 1) / 6,
        ],
        dim=-1,
    )


@lru_cache(maxsize=4)
def _every_level(device: torch.device) -> Tensor:
    """Return the tables (levels, 3, U) of all levels of ln λ."""
    octaves = round(LARGEST_LOG_TEMPERATURE / math.log(2.0))
    count = octaves * _LEVELS_IN_OCTAVE + 1
    levels = torch.linspace(0.0, LARGEST_LOG_TEMPERATURE, count, dtype=torch.float64)
    pairs = [_levels_of(float(level)) for level in levels]
    # λ and 1/λ exchange the two noises, the sum is the same.
    tables = torch.stack([low for low, _ in pairs[:0:-1]] + [high for _, high in pairs])
    return tables.to(device)


def _levels_of(log_temperature: float) -> tuple[Tensor, Tensor]:
    """Return the tables (3, U) of 1/λ and of λ ≥ 1: integrals over the smaller of the noises."""
    wide, narrow = _shares(math.exp(log_temperature))
    u = LOWEST + STEP * torch.arange(POINTS, dtype=torch.float64)
    x = torch.arange(*_NODES, _NODE_STEP, dtype=torch.float64)
    log_weight = -x - (-x).exp() + math.log(_NODE_STEP)  # the density of a Gumbel variate
    y = (u[:, None] - narrow * x) / wide  # what the other one must be
    of_y = (-y).exp()
    above = (log_weight.exp() * -torch.expm1(-of_y)).sum(dim=-1)  # 1 − F
    log_below = torch.logsumexp(log_weight - of_y, dim=-1)  # ln F
    # Where F is nearly 1 its logarithm is that of 1 − (1 − F).
    minus_log = torch.where(above < 0.5, -torch.log1p(-above.clamp_max(0.5)), -log_below)
    log_joint = log_weight - y - of_y - math.log(wide)
    log_hazard = torch.logsumexp(log_joint, dim=-1) + minus_log
    shares = torch.softmax(log_joint, dim=-1)
    same = [minus_log.log(), log_hazard]
    return (
        torch.stack([*same, (shares * x).sum(dim=-1)]),
        torch.stack([*same, (shares * y).sum(dim=-1)]),
    )


def _shares(degree: float) -> tuple[float, float]:
    """Return the factors of the larger and the smaller noise."""
    scale = math.hypot(1.0, degree)
    return degree / scale, 1.0 / scale
