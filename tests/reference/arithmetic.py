"""Arithmetic with 100 digits, in a context of its own (mpmath's global one is left alone).

Logits reach ±80 and a concentration e^80; sums of lnΓ of that size cancel down to a number near 1.
That costs about 38 digits and more with a large vocabulary, so 100 leave more than 50.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from mpmath.ctx_mp import MPContext

context = MPContext()
context.dps = 100

Number = Any  # mpmath's numbers are untyped


def number(value: Any) -> Number:
    """Return a float, an int or a 0-d tensor without rounding."""
    return context.mpf(value.item() if isinstance(value, torch.Tensor) else value)


def numbers(values: torch.Tensor | Iterable[Any]) -> list[Number]:
    """Return a 1-d tensor, or any iterable of numbers, without rounding."""
    if isinstance(values, torch.Tensor):
        values = values.detach().double().tolist()
    return [context.mpf(value) for value in values]


# Cached: tests at a large vocabulary draw their logits from few distinct values.
@lru_cache(maxsize=100_000)
def digamma(x: Number) -> Number:
    """ψ(x)."""
    return context.psi(0, x)


@lru_cache(maxsize=100_000)
def trigamma(x: Number) -> Number:
    """ψ'(x)."""
    return context.psi(1, x)


@lru_cache(maxsize=100_000)
def log_gamma(x: Number) -> Number:
    """LnΓ(x)."""
    return context.loggamma(x)


@lru_cache(maxsize=100_000)
def exp(x: Number) -> Number:
    """e^x."""
    return context.exp(x)


@lru_cache(maxsize=100_000)
def log(x: Number) -> Number:
    """Ln x."""
    return context.log(x)


def total(values: Iterable[Number]) -> Number:
    """Σ, of numbers of one context."""
    return context.fsum(values)


def concentrations(logits: Any, offset: float) -> list[Number]:
    """α_v = e^{z_v} + o."""
    return [exp(z) + number(offset) for z in numbers(logits)]
