"""The row operations by Triton kernels: what the tensors are, and how many threads take a row."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.backend import RowLoss, RowTargets, StudentRows

# Four columns a thread are one 16-byte access of float32, and 32 to 104 registers without spills as
# compiled for compute capability 9.0. Chosen by that, not by measurements.
_LARGEST_BLOCK = 2048
_COLUMNS_PER_THREAD = 4
_WARP = 32

_LOGITS = (torch.float32, torch.bfloat16, torch.float16)


def interpreting() -> bool:
    """Whether TRITON_INTERPRET asks for kernels that run in Python, on tensors of any device."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


class TritonRows:
    """Row operations for CUDA tensors; for any tensor under Triton's interpreter.

    Logits are float32, bfloat16 or float16, targets float32; computed in float32, the terms of a
    whole row in float64.

    Raises:
        ImportError: triton is not installed; see :func:`seqdistill.kernels.triton.triton_status`.
    """

    name = "triton"

    def __init__(self) -> None:
        # Here and not above: this module can be imported, and documented, without triton.
        from seqdistill.kernels.triton import members, student

        self._members: Any = members
        self._student: Any = student

    def add_members_(
        self,
        logits: Sequence[Tensor],
        inverse_temperature: float,
        weight: float,
        mean_probs: Tensor,
        mean_log_probs: Tensor,
        negative_entropies: Tensor,
        is_first: bool = False,
    ) -> None:
        """See :class:`~seqdistill.kernels.backend.RowBackend`."""
        stride = _shared_stride(mean_probs, mean_log_probs)
        for m, member in enumerate(logits):
            n, V = _rows(member)
            if n == 0:
                return
            with _device(member):
                self._members.add_member_kernel[(n,)](
                    member,
                    mean_probs,
                    mean_log_probs,
                    negative_entropies[m],
                    V,
                    member.stride(0),
                    stride,
                    inverse_temperature,
                    weight,
                    FIRST=is_first and m == 0,
                    **_shape(V),
                )

    def ensemble_rows(
        self, mean_probs: Tensor, mean_log_probs: Tensor, negative_entropy: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :class:`~seqdistill.kernels.backend.RowBackend`."""
        n, V = _rows(mean_probs)
        total_uncertainty = torch.empty_like(negative_entropy)
        rmi = torch.empty_like(negative_entropy)
        stride = _shared_stride(mean_probs, mean_log_probs)
        if n:
            with _device(mean_probs):
                self._members.ensemble_kernel[(n,)](
                    mean_probs, mean_log_probs, total_uncertainty, rmi, V, stride, **_shape(V)
                )
        return total_uncertainty, rmi

    def student_rows_(
        self,
        logits: Tensor,
        loss: RowLoss,
        targets: RowTargets,
        wants_gradient: bool,
        gradient: Tensor | None = None,
    ) -> StudentRows:
        """See :class:`~seqdistill.kernels.backend.RowBackend`."""
        n, V = _rows(logits)
        gradient = logits if gradient is None else gradient
        if gradient.shape != logits.shape or gradient.dtype != logits.dtype:
            raise TypeError(
                f"expected a gradient of {logits.dtype} {tuple(logits.shape)}, got "
                f"{gradient.dtype} {tuple(gradient.shape)}"
            )
        _rows(gradient)
        target = targets.mean_log_probs if loss.kind == "end2" else targets.mean_probs
        proxy = loss.kind in ("proxy_dirichlet", "proxy_dirichlet_forward")
        forward = loss.kind == "proxy_dirichlet_forward"
        if (
            target is None
            or (proxy and targets.inverse_w is None)
            or (forward and targets.inverse_precision is None)
            or (loss.mix_weight and targets.references is None)
        ):
            raise TypeError(f"the driver left out a target that {loss.kind} needs")
        target = target.to(torch.float32)
        if target.stride(1) != 1:
            target = target.contiguous()
        values = torch.empty(4, n, dtype=torch.float32, device=logits.device)
        row_loss, log_sum, reference_logit, largest = values
        if n:
            with _device(logits):
                self._student.student_kernel[(n,)](
                    logits,
                    gradient,
                    target,
                    _vector(targets.inverse_w if proxy else None, torch.float32),
                    _vector(targets.inverse_precision if forward else None, torch.float32),
                    _vector(targets.references, torch.int64),
                    _vector(targets.row_weight, torch.float32),
                    row_loss,
                    log_sum,
                    reference_logit,
                    largest,
                    V,
                    logits.stride(0),
                    gradient.stride(0),
                    target.stride(0),
                    float(loss.mix_weight),
                    float(loss.label_smoothing),
                    KIND=self._student.NUMBERS[loss.kind],
                    OFFSET=int(loss.offset),
                    MIXED=bool(loss.mix_weight),
                    WANTS_GRADIENT=wants_gradient,
                    **_shape(V),
                )
        known = reference_logit if targets.references is not None else None
        return StudentRows(row_loss, log_sum, known, largest)


def _rows(logits: Tensor) -> tuple[int, int]:
    """Return n and V of rows that the kernels can walk over."""
    if not (logits.is_cuda or interpreting()):
        raise InputError(
            f"loss backend triton computes on CUDA devices, the logits are on {logits.device}; "
            "take auto or eager"
        )
    if logits.dtype not in _LOGITS or logits.dim() != 2 or logits.stride(1) != 1:
        raise TypeError(
            "the triton backend takes (n, V) logits in float32, bfloat16 or float16 with "
            f"contiguous rows, got {logits.dtype}, {tuple(logits.shape)}, {logits.stride()}"
        )
    n, V = logits.shape
    return n, V


def _shared_stride(mean_probs: Tensor, mean_log_probs: Tensor) -> int:
    """Return the distance of one row to the next, the same for both of what is added to."""
    for rows in (mean_probs, mean_log_probs):
        if rows.dtype != torch.float32 or rows.stride() != (mean_probs.stride(0), 1):
            raise TypeError(
                "the triton backend takes float32 means with contiguous rows and equal strides, "
                f"got {rows.dtype}, {rows.stride()}"
            )
    return mean_probs.stride(0)


def _vector(values: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return one number a row, side by side."""
    return None if values is None else values.to(dtype).contiguous()


def _shape(V: int) -> dict[str, int]:
    """Return block and warps for a row of V: a thread has at most 4 columns, a block 16 warps."""
    block = 1
    while block < min(V, _LARGEST_BLOCK):
        block *= 2
    # At least one column a thread: of two that hold the same column, the second could read what the
    # first has written in the logit's place.
    block = max(block, 4 * _WARP)
    return {"BLOCK": block, "num_warps": max(4, block // (_COLUMNS_PER_THREAD * _WARP))}


def _device(rows: Tensor) -> Any:
    """Return a context in which launches go to the rows' device."""
    return torch.cuda.device(rows.device) if rows.is_cuda else nullcontext()
