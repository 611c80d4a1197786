"""Likelihoods of members' logits and the Concrete density, one entry at a time in float64."""

import math
from collections.abc import Sequence


def comparable(logits: Sequence[float], form: str) -> list[float]:
    """ln softmax, or the logits less their mean."""
    if form == "centred":
        mean = math.fsum(logits) / len(logits)
        return [value - mean for value in logits]
    largest = max(logits)
    total = largest + math.log(math.fsum(math.exp(value - largest) for value in logits))
    return [value - total for value in logits]


def logit_likelihood(
    logits: Sequence[float],
    log_scales: Sequence[float],
    members: Sequence[Sequence[float]],
    family: str,
    form: str,
) -> float:
    """Mean over entries and members of −ln f(x), f with location μ and scale e^s."""
    location = comparable(logits, form)
    terms = []
    for member in members:
        for x, mu, s in zip(comparable(member, form), location, log_scales, strict=True):
            b = math.exp(s)
            if family == "laplace":
                density = math.exp(-abs(x - mu) / b) / (2 * b)
            else:
                density = math.exp(-((x - mu) ** 2) / (2 * b * b)) / (b * math.sqrt(2 * math.pi))
            terms.append(-math.log(density))
    return math.fsum(terms) / len(terms)


def mean_divergence(logits: Sequence[float], members: Sequence[Sequence[float]]) -> float:
    """KL(p̄‖softmax(z))."""
    probs = [[math.exp(x) for x in comparable(member, "log_softmax")] for member in members]
    mean = [math.fsum(column) / len(members) for column in zip(*probs, strict=True)]
    student = comparable(logits, "log_softmax")
    return math.fsum(p * (math.log(p) - lp) for p, lp in zip(mean, student, strict=True))


def concrete_density(x: Sequence[float], weights: Sequence[float], temperature: float) -> float:
    """f(x) of Maddison, Mnih & Teh (2017), equation 10, as it stands there."""
    V = len(x)
    terms = [a * v ** (-temperature - 1) for a, v in zip(weights, x, strict=True)]
    below = math.fsum(a * v**-temperature for a, v in zip(weights, x, strict=True))
    return math.factorial(V - 1) * temperature ** (V - 1) * math.prod(terms) / below**V


def concrete_likelihood(
    logits: Sequence[float], log_temperature: float, members: Sequence[Sequence[float]]
) -> float:
    """Mean over members of −ln of the density of ln p_m, an entry, at weights e^{λz}."""
    degree = math.exp(log_temperature)
    weights = [math.exp(degree * z) for z in logits]
    found = []
    for member in members:
        probs = [math.exp(x) for x in comparable(member, "log_softmax")]
        # The density of ln p is that of p times the Jacobian Π p.
        found.append(
            math.log(concrete_density(probs, weights, degree)) + math.fsum(map(math.log, probs))
        )
    return -math.fsum(found) / len(members) / len(logits)
