"""Uncertainty of a Dirichlet student by the compiled kernels, where they can be used."""

import torch
from torch import Tensor

from seqdistill.kernels.cpp.backend import load
from seqdistill.kernels.cpp.library import MEASURES


def dirichlet_measures(logits: Tensor, offset: float) -> dict[str, Tensor] | None:
    """Return the measures of a Dirichlet student, or None where plain PyTorch has to make them.

    That is on another device or in float64, where gradients are wanted, and where there are no
    compiled kernels.

    Args:
        logits: (..., V) z of α = e^z + offset, any floating dtype.
        offset: 1 or 0.

    Returns:
        The measures of :data:`~seqdistill.kernels.cpp.library.MEASURES`, each (...) float32.
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
    rows = logits.detach().float().reshape(-1, logits.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    values = library.uncertainty(rows, offset).view(len(MEASURES), *logits.shape[:-1])
    return dict(zip(MEASURES, values.unbind(), strict=True))
