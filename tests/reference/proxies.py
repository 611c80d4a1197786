"""Precision of the Proxy-Dirichlet and its concentrations: plain loops over 100-digit numbers."""

from collections.abc import Sequence
from typing import Any

from tests.reference import dirichlets
from tests.reference.arithmetic import Number, digamma, exp, log, number, numbers, total


def mkl_inverse_precision(rmi: Any, V: int) -> Number:
    """1/β̃₀ = 2 RMI/(V − 1)."""
    return 2 * number(rmi) / (V - 1)


def epkl_inverse_precision(epkl: Any, V: int) -> Number:
    """1/β̃₀ = EPKL/(V − 1)."""
    return number(epkl) / (V - 1)


def reverse_mutual_information(mean_probs: Any, inverse_precision: Any) -> Number:
    """RMI of Dir(β̃₀ p̄); a piece with p̄ = 0 counts its limit, 1/β̃₀."""
    precision = 1 / number(inverse_precision)
    last = digamma(precision)
    return total(
        p * (log(p) - digamma(precision * p) + last) if p > 0 else 1 / precision
        for p in numbers(mean_probs)
    )


def exact_inverse_precision(mean_probs: Any, rmi: Any) -> Number:
    """1/β̃₀ at which Dir(β̃₀ p̄) has the given RMI, by bisection of ln β̃₀."""
    V = len(mean_probs)
    wanted = number(rmi)
    # RMI β̃₀ lies between (V − 1)/2 and V.
    lower, upper = log(number(V - 1) / 2 / wanted), log(number(V) / wanted)
    for _ in range(70):
        middle = (lower + upper) / 2
        if reverse_mutual_information(mean_probs, exp(-middle)) > wanted:
            lower = middle
        else:
            upper = middle
    return exp(-lower)


def concentrations(mean_probs: Any, inverse_precision: Any) -> list[Number]:
    """β = β̃₀ p̄ + 1."""
    return [p / number(inverse_precision) + 1 for p in numbers(mean_probs)]


def inverse_normaliser(inverse_precision: Any, V: int, normalisation: str) -> Number:
    """1/w: w = β̃₀ (``proxy``) or β̃₀ + V (``total``)."""
    inverse = number(inverse_precision)
    if normalisation == "proxy":
        return inverse
    return inverse / (1 + V * inverse)


def divergence(alpha: Sequence[Number], mean_probs: Any, inverse_precision: Any) -> Number:
    """KL(Dir(α)‖Dir(β))."""
    return dirichlets.kl(alpha, concentrations(mean_probs, inverse_precision))
