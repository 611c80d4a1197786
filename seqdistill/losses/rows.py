"""Drive a row-wise loss over the counted tokens of a batch, a chunk at a time.

A loss of this project is a *row function*: logits (n, V) and target rows in, loss (n,) and its
derivative (n, V) out, both from closed forms. This file does what all of them share: it drops the
padded rows before the maths (so they cannot matter, whatever they hold), works in float32 at
least, keeps temporaries to one chunk, and gives autograd the derivative.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError

#: (logits (n, V), target rows (n, …), whether the derivative is wanted) → loss, derivative or None
RowFunction = Callable[[Tensor, tuple[Tensor, ...], bool], tuple[Tensor, Tensor | None]]

# Rows × vocabulary held at once: 512 KiB a temporary in float32, so that several stay in cache.
_CHUNK_ELEMENTS = 1 << 17


def masked_sum(
    row_function: RowFunction,
    logits: Tensor,
    targets: tuple[Tensor, ...],
    token_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Sum a row-wise loss over the tokens that count.

    Args:
        row_function: the loss of one chunk of rows, with its derivative.
        logits: (..., V) of the student, any floating dtype.
        targets: tensors of leading shape (...): one row a token.
        token_mask: (...) bool, True where a token counts; None counts all.

    Returns:
        The loss sum (a scalar in nats, float32, or float64 for float64 logits), differentiable in
        the logits once, and the number of counted tokens (an integer scalar tensor).

    Raises:
        InputError: shapes do not match.
    """
    leading = logits.shape[:-1]
    for target in targets:
        if target.shape[: len(leading)] != leading:
            raise InputError(
                f"logits have shape {tuple(logits.shape)}, a target {tuple(target.shape)}; "
                f"the leading dimensions must be equal"
            )
    if token_mask is not None and token_mask.shape != leading:
        raise InputError(
            f"expected a token mask of shape {tuple(leading)}, got {tuple(token_mask.shape)}"
        )
    V = logits.shape[-1]
    flat = logits.reshape(-1, V)
    rows = tuple(t.detach().reshape(flat.shape[0], *t.shape[len(leading) :]) for t in targets)
    if token_mask is None:
        index = torch.arange(flat.shape[0], device=logits.device)
    else:
        index = token_mask.reshape(-1).bool().nonzero().squeeze(-1)
    total: Tensor = _RowLoss.apply(flat, index, row_function, rows)
    return total, torch.tensor(index.numel(), device=logits.device)


def check_vocabulary(logits: Tensor, target: Tensor, what: str) -> None:
    """Raise an :class:`InputError` unless student and teacher share one vocabulary."""
    if logits.shape[-1] < 2:
        raise InputError(
            f"expected a vocabulary of at least 2 pieces, got logits of shape {tuple(logits.shape)}"
        )
    if logits.shape != target.shape:
        raise InputError(
            f"the student's logits have shape {tuple(logits.shape)}, {what} "
            f"{tuple(target.shape)}; student and teachers must share one vocabulary and batch"
        )


def check_offset(offset: float) -> None:
    """Raise an :class:`InputError` unless the offset is 0 or 1."""
    if offset not in (0, 1):
        raise InputError(
            f"expected an offset of 1 (default) or 0, got {offset}; concentrations are e^z + offset"
        )


class _RowLoss(torch.autograd.Function):
    """Sum of a row-wise loss; the derivative is computed beside the value, once."""

    @staticmethod
    def forward(
        ctx: Any,
        flat: Tensor,
        index: Tensor,
        row_function: RowFunction,
        rows: tuple[Tensor, ...],
    ) -> Tensor:
        V = flat.shape[-1]
        dtype = flat.dtype if flat.dtype == torch.float64 else torch.float32
        wants_gradient = ctx.needs_input_grad[0]
        # float16 would flush the tail's derivatives to 0 before a loss scale can lift them.
        kept = torch.float32 if flat.dtype == torch.float16 else flat.dtype
        gradient = torch.zeros_like(flat, dtype=kept) if wants_gradient else None
        total = torch.zeros((), dtype=torch.float64, device=flat.device)
        for chunk in torch.split(index, max(1, _CHUNK_ELEMENTS // V)):
            z = flat[chunk].to(dtype)
            target = tuple(t[chunk].to(dtype) if t.is_floating_point() else t[chunk] for t in rows)
            loss, derivative = row_function(z, target, wants_gradient)
            total += loss.sum(dtype=torch.float64)
            if gradient is not None and derivative is not None:
                gradient[chunk] = derivative.to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
            ctx.logits_dtype = flat.dtype
        return total.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        # torch's once_differentiable lets create_graph=True pass, and a penalty on the gradient
        # would then silently have no gradient itself.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this loss has a first derivative only; create_graph=True asks for a second"
            )
        (gradient,) = ctx.saved_tensors
        scale = grad_output.to(torch.promote_types(gradient.dtype, torch.float32))
        return (gradient * scale).to(ctx.logits_dtype), None, None, None
