"""The losses of one token and their gradients in the logits, by plain loops over 100-digit numbers.

Each returns ``(value, gradient)``. The gradients are the derivatives in α_v of the formula above
them, times ∂α_v/∂z_v = e^{z_v}: nothing of the regrouped forms of the package is used.
"""

from typing import Any

from tests.reference import dirichlets, predictives, proxies
from tests.reference.arithmetic import (
    Number,
    concentrations,
    digamma,
    exp,
    log,
    log_gamma,
    number,
    numbers,
    total,
    trigamma,
)

ValueAndGradient = tuple[Number, list[Number]]


def proxy_dirichlet(
    logits: Any,
    mean_probs: Any,
    inverse_precision: Any,
    offset: float = 1.0,
    normalisation: str = "proxy",
) -> ValueAndGradient:
    """L = −Σ p̄ (ψ(α) − ψ(α₀)) − H[Dir(α)]/w."""
    alpha, p = concentrations(logits, offset), numbers(mean_probs)
    V, precision = len(alpha), total(alpha)
    inverse_w = proxies.inverse_normaliser(inverse_precision, V, normalisation)
    fit = -total(q * (digamma(a) - digamma(precision)) for q, a in zip(p, alpha, strict=True))
    value = fit - dirichlets.differential_entropy(alpha) * inverse_w
    gradient = []
    mass, slope = total(p), trigamma(precision)
    for z, q, a in zip(numbers(logits), p, alpha, strict=True):
        fit_slope = mass * slope - q * trigamma(a)
        entropy_slope = (precision - V) * slope - (a - 1) * trigamma(a)
        gradient.append(exp(z) * (fit_slope - entropy_slope * inverse_w))
    return value, gradient


def proxy_dirichlet_forward(
    logits: Any,
    mean_probs: Any,
    inverse_precision: Any,
    offset: float = 1.0,
    normalisation: str = "proxy",
) -> ValueAndGradient:
    """L = KL(Dir(β)‖Dir(α))/w."""
    alpha = concentrations(logits, offset)
    beta = proxies.concentrations(mean_probs, inverse_precision)
    inverse_w = proxies.inverse_normaliser(inverse_precision, len(alpha), normalisation)
    shared = digamma(total(beta)) - digamma(total(alpha))
    gradient = [
        exp(z) * (digamma(a) - digamma(b) + shared) * inverse_w
        for z, a, b in zip(numbers(logits), alpha, beta, strict=True)
    ]
    return dirichlets.kl(beta, alpha) * inverse_w, gradient


def end2(logits: Any, mean_log_probs: Any, offset: float = 1.0) -> ValueAndGradient:
    """L = Σ lnΓ(α) − lnΓ(α₀) − Σ (α − 1) ℓ̄."""
    alpha, log_probs = concentrations(logits, offset), numbers(mean_log_probs)
    precision = total(alpha)
    value = (
        total(log_gamma(a) for a in alpha)
        - log_gamma(precision)
        - total((a - 1) * lp for a, lp in zip(alpha, log_probs, strict=True))
    )
    gradient = [
        exp(z) * (digamma(a) - digamma(precision) - lp)
        for z, a, lp in zip(numbers(logits), alpha, log_probs, strict=True)
    ]
    return value, gradient


def mean_kl(logits: Any, mean_probs: Any) -> ValueAndGradient:
    """L = KL(p̄‖softmax(z)); 0 ln 0 = 0."""
    p, base = numbers(mean_probs), predictives.base(logits)
    value = total(a * (log(a) - log(b)) for a, b in zip(p, base, strict=True) if a > 0)
    mass = total(p)
    return value, [mass * b - a for a, b in zip(p, base, strict=True)]


def label_smoothed_cross_entropy(
    logits: Any, reference: int, label_smoothing: float = 0.0
) -> ValueAndGradient:
    """L = −Σ q ln softmax(z), q = 1 − ε on the reference piece and ε/(V − 1) on every other."""
    base, smoothing = predictives.base(logits), number(label_smoothing)
    other = smoothing / (len(base) - 1)
    q = [1 - smoothing if v == reference else other for v in range(len(base))]
    value = -total(a * log(b) for a, b in zip(q, base, strict=True))
    return value, [b - a for a, b in zip(q, base, strict=True)]
