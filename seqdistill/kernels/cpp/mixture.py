"""The compiled kernels of mixtures of members: see :mod:`seqdistill.kernels.mixture`."""

import torch
from torch import Tensor

from seqdistill.kernels.cpp.library import Library, MixArguments, ReadMixtureArguments


def mix_member_(
    library: Library,
    logits: Tensor,
    probs: Tensor,
    log_probs: Tensor,
    weighted: Tensor | None,
    fade: Tensor | None,
    share: Tensor | None,
    is_first: bool,
) -> tuple[Tensor, Tensor]:
    """Add a member to the sums, float32 on the CPU.

    Args:
        library: the compiled kernels.
        logits: (n, V) of the member; any constant of a row may be missing.
        probs: (n, V) += p, p = softmax(logits); may be the first member's logits.
        log_probs: (n, V) += ln p.
        weighted: (n, V) = fade · before + share · p; None: no weights.
        fade: (n) float64.
        share: (n) float64.
        is_first: the sums begin here, whatever they hold.

    Returns:
        ln Σ e^logits and the entropy of p, (n) each, float64.

    Raises:
        TypeError: rows that the kernel would read or write past their end.
    """
    n, V = logits.shape
    if logits.dtype != torch.float32 or logits.device.type != "cpu":
        raise TypeError(f"expected float32 logits on the CPU, got {logits.dtype} {logits.device}")
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    log_total, entropy = torch.empty(2, n, dtype=torch.float64)
    arguments = MixArguments(
        logits=logits.data_ptr(),
        probs=_address(probs, torch.float32, n, V),
        log_probs=_address(log_probs, torch.float32, n, V),
        weighted=None if weighted is None else _address(weighted, torch.float32, n, V),
        fade=None if fade is None else _address(fade, torch.float64, n),
        share=None if share is None else _address(share, torch.float64, n),
        log_total=log_total.data_ptr(),
        entropy=entropy.data_ptr(),
        logits_stride=logits.stride(0),
        V=V,
        is_first=is_first,
    )
    library.call("mix_member", n, arguments)
    return log_total, entropy


def read_mixture_(
    library: Library,
    sums: Tensor,
    log_probs: Tensor,
    factor: Tensor,
    members: int,
    wants_log: bool,
) -> Tensor:
    """Return what q = factor · sums is, float32 on the CPU.

    Args:
        library: the compiled kernels.
        sums: (n, V), of p or of w p; ln q afterwards where it is wanted.
        log_probs: (n, V) Σ ln p.
        factor: (n) float64.
        members: M.
        wants_log: ln q shall take the sums' place.

    Returns:
        (4, n) float64: H(q), Σ q (ln q − ℓ̄), max q and min q.

    Raises:
        TypeError: rows that the kernel would read or write past their end.
    """
    n, V = sums.shape
    measures = torch.empty(4, n, dtype=torch.float64)
    arguments = ReadMixtureArguments(
        sums=_address(sums, torch.float32, n, V),
        log_probs=_address(log_probs, torch.float32, n, V),
        factor=_address(factor, torch.float64, n),
        measures=measures.data_ptr(),
        members=members,
        n=n,
        V=V,
        wants_log=wants_log,
    )
    library.call("read_mixture", n, arguments)
    return measures


def _address(values: Tensor, dtype: torch.dtype, *shape: int) -> int:
    if (
        tuple(values.shape) != shape
        or values.dtype != dtype
        or values.device.type != "cpu"
        or not values.is_contiguous()
    ):
        raise TypeError(
            f"expected contiguous {dtype} {shape} on the CPU, got {values.dtype} "
            f"{tuple(values.shape)} with strides {values.stride()} on {values.device}"
        )
    return values.data_ptr()
