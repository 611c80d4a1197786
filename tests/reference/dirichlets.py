"""Measures and divergences of Dirichlet distributions, by plain loops over 100-digit numbers."""

from collections.abc import Sequence

from tests.reference.arithmetic import Number, digamma, log, log_gamma, total


def mean(alpha: Sequence[Number]) -> list[Number]:
    """α/α₀."""
    precision = total(alpha)
    return [a / precision for a in alpha]


def total_uncertainty(alpha: Sequence[Number]) -> Number:
    """TU = H(α/α₀)."""
    return -total(p * log(p) for p in mean(alpha))


def data_uncertainty(alpha: Sequence[Number]) -> Number:
    """DU = −Σ (α/α₀)(ψ(α + 1) − ψ(α₀ + 1))."""
    last = digamma(total(alpha) + 1)
    return -total(p * (digamma(a + 1) - last) for p, a in zip(mean(alpha), alpha, strict=True))


def mutual_information(alpha: Sequence[Number]) -> Number:
    """MI = TU − DU."""
    return total_uncertainty(alpha) - data_uncertainty(alpha)


def reverse_mutual_information(alpha: Sequence[Number]) -> Number:
    """RMI = Σ (α/α₀)(ln(α/α₀) − ψ(α) + ψ(α₀))."""
    last = digamma(total(alpha))
    return total(p * (log(p) - digamma(a) + last) for p, a in zip(mean(alpha), alpha, strict=True))


def epkl(alpha: Sequence[Number]) -> Number:
    """EPKL = −Σ E[π] E[ln π] − DU, from the two expectations."""
    last = digamma(total(alpha))
    cross = -total(p * (digamma(a) - last) for p, a in zip(mean(alpha), alpha, strict=True))
    return cross - data_uncertainty(alpha)


def differential_entropy(alpha: Sequence[Number]) -> Number:
    """H[Dir(α)] = Σ lnΓ(α) − lnΓ(α₀) + (α₀ − V) ψ(α₀) − Σ (α − 1) ψ(α)."""
    precision = total(alpha)
    log_beta = total(log_gamma(a) for a in alpha) - log_gamma(precision)
    return (
        log_beta
        + (precision - len(alpha)) * digamma(precision)
        - total((a - 1) * digamma(a) for a in alpha)
    )


def kl(alpha: Sequence[Number], beta: Sequence[Number]) -> Number:
    """KL(Dir(α)‖Dir(β))."""
    first, second = total(alpha), total(beta)
    last = digamma(first)
    return (
        log_gamma(first)
        - log_gamma(second)
        + total(log_gamma(b) - log_gamma(a) for a, b in zip(alpha, beta, strict=True))
        + total((a - b) * (digamma(a) - last) for a, b in zip(alpha, beta, strict=True))
    )
