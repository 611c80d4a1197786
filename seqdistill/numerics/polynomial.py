"""Polynomials over large tensors, one pass over memory a power."""

from functools import lru_cache

import torch
from torch import Tensor


def horner(coefficients: tuple[float, ...], x: Tensor, out: Tensor | None = None) -> Tensor:
    """Evaluate a polynomial by Horner's rule; coefficients lowest power first.

    Args:
        coefficients: at least two.
        x: (...) arguments.
        out: memory of the same shape that is overwritten; must not be ``x``.
    """
    constants = _constants(coefficients, x.dtype, x.device)
    value = torch.add(constants[-2], x, alpha=coefficients[-1], out=out)
    for constant in reversed(constants[:-2]):
        # One pass; value.mul_(x).add_(c) would be two.
        torch.addcmul(constant, value, x, out=value)
    return value


@lru_cache(maxsize=64)
def _constants(
    coefficients: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    return torch.tensor(coefficients, dtype=dtype, device=device).unbind()
