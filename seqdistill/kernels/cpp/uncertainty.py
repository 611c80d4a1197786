"""Uncertainty of a Dirichlet student by the compiled kernels, where they can be used."""

import torch
from torch import Tensor

from seqdistill.kernels.cpp.backend import load
from seqdistill.kernels.cpp.library import DirichletRows


def dirichlet_rows(
    logits: Tensor, offset: float, predictive: str | None = None, *, is_free: bool = False
) -> DirichletRows | None:
    """Return what there is to say of rows of logits, or None where plain PyTorch has to say it.

    That is on another device or in float64, where gradients are wanted, and where there are no
    compiled kernels.

    Args:
        logits: (n, V) z of α = e^z + offset, any floating dtype.
        offset: 1 or 0.
        predictive: ``base`` or ``mean``, whose log-probabilities are wanted, too.
        is_free: they may take the logits' place.
    """
    if (
        logits.device.type != "cpu"
        or logits.dtype == torch.float64
        or (logits.requires_grad and torch.is_grad_enabled())
    ):
        return None
    library = load().library
    if library is None:
        return None
    logits = logits.detach().float()
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    return library.uncertainty(logits, offset, predictive, is_free=is_free)
