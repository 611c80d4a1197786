"""Two predictive distributions at one position, and one at a temperature: plain loops, float64."""

import math
from collections.abc import Sequence


def divergence(q: Sequence[float], p: Sequence[float]) -> float:
    """KL(q‖p) = Σ q ln(q/p) in nats; what q rules out counts 0, what only p rules out ∞."""
    terms = []
    for of_q, of_p in zip(q, p, strict=True):
        if of_q == 0.0:
            continue
        if of_p == 0.0:
            return math.inf
        terms.append(of_q * math.log(of_q / of_p))
    return math.fsum(terms)


def log_partition(p: Sequence[float], temperature: float) -> float:
    """ln Σ p^(1/T)."""
    return math.log(math.fsum(x ** (1.0 / temperature) for x in p if x > 0.0))


def tempered(p: Sequence[float], temperature: float) -> list[float]:
    """p^(1/T) renormalised."""
    powers = [x ** (1.0 / temperature) if x > 0.0 else 0.0 for x in p]
    total = math.fsum(powers)
    return [power / total for power in powers]
