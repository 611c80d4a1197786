"""One row of a large vocabulary in which one logit runs away, and its gradient to 100 digits.

The row has few distinct entries, each many times over, with dyadic probabilities: high precision
costs one evaluation an entry, and Σ p̄ = 1 holds exactly in float32, so that no method can be off
because of its input.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tests.reference.arithmetic import exp, number, total, trigamma

#: RMI of the ensemble, nats; a dyadic number near that of the synthetic teachers.
_RMI = 0.03125

_RUNAWAY_MASS = {"likely": 0.375, "unlikely": 2.0**-20}

#: Which piece's logit runs away: one of p̄ = 3/8, or one of p̄ = 2⁻²⁰.
PLACES = tuple(_RUNAWAY_MASS)

# One piece takes what the runaway leaves of 7/8, and the student is far below it: so the largest
# entry of the gradient is never small, and an error relative to it means something (at the loss's
# optimum the gradient is 0). The other logits are off by less, up and down in turn.
_TOGETHER = 0.875
_FAR_BELOW = 3.0
_DISPLACEMENT = 0.75


@dataclass(frozen=True)
class Row:
    """A row of V entries as (logit, p̄, how often); the first entry is the one that runs away.

    Attributes:
        logits: one per distinct entry, exactly representable in float32.
        probs: p̄, dyadic; Σ probs · counts = 1.
        counts: Σ counts = V; the first is 1.
        rmi: nats.
    """

    logits: tuple[float, ...]
    probs: tuple[float, ...]
    counts: tuple[int, ...]
    rmi: float = _RMI

    @property
    def V(self) -> int:  # noqa: N802 (the field's letter)
        """Vocabulary entries."""
        return sum(self.counts)

    def spread(self, values: tuple[float, ...]) -> Tensor:
        """Return (V) float64: each distinct entry's value, as often as it occurs."""
        distinct = torch.tensor(values, dtype=torch.float64)
        return distinct.repeat_interleave(torch.tensor(self.counts))


def runaway_row(V: int, z: float, where: str) -> Row:
    """Return a row of a student in training, one of whose logits is elsewhere altogether.

    Args:
        V: vocabulary entries, at least 8.
        z: the logit that is elsewhere; rounded to float32.
        where: one of :data:`PLACES`.
    """
    own = _RUNAWAY_MASS[where]
    counts, probs = [1, 1], [own, _TOGETHER - own]
    rest = V - len(counts)
    groups = [1 << bit for bit in range(rest.bit_length()) if rest >> bit & 1]
    mass = 1 - _TOGETHER
    for position, group in enumerate(groups):
        # The last group takes what is left, so the sum is exact.
        share = mass if position == len(groups) - 1 else mass / 2
        mass -= share
        counts.append(group)
        probs.append(share / group)
    level = math.log((V - 1) / (2 * _RMI))
    off = [0.0, -_FAR_BELOW, *(_DISPLACEMENT * (-1) ** i for i in range(len(groups)))]
    logits = [_float32(level + math.log(p) + o) for p, o in zip(probs, off, strict=True)]
    return at(Row(tuple(logits), tuple(probs), tuple(counts)), z)


def at(row: Row, z: float) -> Row:
    """Return the row with the runaway logit elsewhere."""
    return replace(row, logits=(_float32(z), *row.logits[1:]))


def exact_gradient(row: Row) -> tuple[float, ...]:
    """Return ∂L/∂z of each distinct entry, computed with 100 digits and rounded to float64.

    L = −Σ p̄ (ψ(α) − ψ(α₀)) − H[Dir(α)]/w with α = e^z + 1 and w = β̃₀ + V, β̃₀ = (V − 1)/(2 RMI):
    what the research code computes, and this project's ``normalisation="total"``. Its derivative
    in α_v, times e^z; nothing of the regrouped forms of the package is used.
    """
    V = row.V
    inverse_w = 1 / (number(V - 1) / (2 * number(row.rmi)) + V)
    exps = [exp(number(z)) for z in row.logits]
    probs = [number(p) for p in row.probs]
    counts = [number(count) for count in row.counts]
    precision = total(n * (e + 1) for n, e in zip(counts, exps, strict=True))
    mass = total(n * p for n, p in zip(counts, probs, strict=True))
    row_slope = trigamma(precision)
    gradient = []
    for e, p in zip(exps, probs, strict=True):
        slope = trigamma(e + 1)
        fit = mass * row_slope - p * slope
        entropy = (precision - V) * row_slope - e * slope
        gradient.append(float(e * (fit - entropy * inverse_w)))
    return tuple(gradient)


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
