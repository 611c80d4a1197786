"""How large the parts are that a loss's value and gradient are the sum of.

An error budget needs a scale. Near the optimum a gradient is the small difference of parts of
size p̄, and what arithmetic can promise is a few roundings of the parts. These are the parts of the
well-grouped formulas: never the lnΓ of a large number, which would excuse any error.
"""

from typing import Any

from tests.reference import dirichlets, proxies
from tests.reference.arithmetic import (
    Number,
    concentrations,
    digamma,
    exp,
    number,
    numbers,
    total,
    trigamma,
)

Terms = tuple[Number, list[Number]]


def proxy_dirichlet(
    logits: Any,
    mean_probs: Any,
    inverse_precision: Any,
    offset: float = 1.0,
    normalisation: str = "proxy",
) -> Terms:
    """Parts of the gradient, u = e^z ψ'(α), g = e^z |1 − u| and U₀, G₀ the same of the row.

    o = 1: p (U₀ + G₀/w), p̄ u, g/w.   o = 0: p (U₀ (1 + V/w) + G₀/w), u (p̄ + 1/w), g/w.
    """
    alpha, p = concentrations(logits, offset), numbers(mean_probs)
    precision, V = total(alpha), len(alpha)
    inverse_w = proxies.inverse_normaliser(inverse_precision, V, normalisation)
    weights = [exp(z) for z in numbers(logits)]
    S = total(weights)
    u_total = S * trigamma(precision)
    g_total = S * abs(1 - u_total)
    without = (1 - number(offset)) * inverse_w
    rows = []
    for e, a, q in zip(weights, alpha, p, strict=True):
        u = e * trigamma(a)
        row = u_total * (1 + V * without) + g_total * inverse_w
        rows.append(e / S * row + u * (q + without) + e * abs(1 - u) * inverse_w)
    last = digamma(precision)
    fit = total(q * abs(digamma(a) - last) for q, a in zip(p, alpha, strict=True))
    return fit + abs(dirichlets.differential_entropy(alpha)) * inverse_w, rows


def proxy_dirichlet_forward(
    logits: Any,
    mean_probs: Any,
    inverse_precision: Any,
    offset: float = 1.0,
    normalisation: str = "proxy",
) -> Terms:
    """Parts e^z/w (|ψ(α) − ψ(α₀)| + |ψ(β) − ψ(β₀)| + 1); the value adds the two entropies/w."""
    alpha = concentrations(logits, offset)
    beta = proxies.concentrations(mean_probs, inverse_precision)
    inverse_w = proxies.inverse_normaliser(inverse_precision, len(alpha), normalisation)
    last, last_proxy = digamma(total(alpha)), digamma(total(beta))
    rows = [
        exp(z) * (abs(digamma(a) - last) + abs(digamma(b) - last_proxy) + 1) * inverse_w
        for z, a, b in zip(numbers(logits), alpha, beta, strict=True)
    ]
    entropies = abs(dirichlets.differential_entropy(alpha)) + abs(
        dirichlets.differential_entropy(beta)
    )
    return total(rows) + entropies * inverse_w, rows


def end2(logits: Any, mean_log_probs: Any, offset: float = 1.0) -> Terms:
    """Parts e^z (|ψ(α) − ψ(α₀)| + |ℓ̄| + 1); the value adds the entropy."""
    alpha = concentrations(logits, offset)
    last = digamma(total(alpha))
    rows = [
        exp(z) * (abs(digamma(a) - last) + abs(lp) + 1)
        for z, a, lp in zip(numbers(logits), alpha, numbers(mean_log_probs), strict=True)
    ]
    return total(rows) + abs(dirichlets.differential_entropy(alpha)), rows
