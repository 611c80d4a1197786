"""The walk over chunks of tokens: products, targets, loss and gradients, one chunk at a time."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqdistill.kernels.backend import RowBackend, RowTargets, StudentRows
from seqdistill.kernels.chunks import ChunkTarget, TargetSource, project
from seqdistill.kernels.memory import new_tensor
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.workspace import Workspace
from seqdistill.losses.proxy_dirichlet import forward_precision, inverse_normalisation


@dataclass(frozen=True)
class TokenRows:
    """What is known of each counted token, (N) each, without derivative.

    Attributes:
        loss: in nats.
        log_sum: ln Σ e^z of the student.
        reference_logit: z at the reference piece; None without references.
        largest_logit: max z.
        total_uncertainty: the ensemble's TU; None where the target does not say, as the next.
        mutual_information: MI.
        epkl: EPKL.
        reverse_mutual_information: RMI.
    """

    loss: Tensor
    log_sum: Tensor
    reference_logit: Tensor | None
    largest_logit: Tensor
    total_uncertainty: Tensor | None
    mutual_information: Tensor | None
    epkl: Tensor | None
    reverse_mutual_information: Tensor | None


class Walk:
    """One pass over the chunks: what it needs, and what it leaves."""

    def __init__(
        self,
        loss: DistillationLoss,
        source: TargetSource,
        backend: RowBackend,
        references: Tensor | None,
        token_weights: Tensor | None,
        dtype: torch.dtype,
        chunk_tokens: int,
    ) -> None:
        self.loss = loss
        self.source = source
        self.backend = backend
        self.references = references
        self.token_weights = token_weights
        self.dtype = dtype
        self.chunk_tokens = chunk_tokens
        self._students: list[StudentRows] = []
        self._targets: list[ChunkTarget] = []

    def begin(self, N: int, dtype: torch.dtype, device: torch.device) -> Workspace:
        """Return the memory of a walk over N tokens, its source told."""
        rows = min(self.chunk_tokens, max(N, self.source.longest))
        work = Workspace.of_thread(rows, self.source.V, dtype, device)
        self.source.start(self.chunk_tokens, self.backend, work)
        return work

    def chunks(self, N: int) -> list[tuple[int, int]]:
        """Return (begin, end) of every chunk of N tokens."""
        n = self.chunk_tokens
        return [(begin, min(begin + n, N)) for begin in range(0, N, n)]

    def student_rows_(
        self,
        logits: Tensor,
        target: ChunkTarget,
        begin: int,
        end: int,
        wants_gradient: bool,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """Put a chunk's gradient there, or in the logits' place; return the chunk's loss (n)."""
        loss = self.loss
        inverse_w = inverse_precision = None
        if loss.is_proxy and target.inverse_precision is not None:
            inverse_precision = target.inverse_precision
            if loss.kind == "proxy_dirichlet_forward":
                inverse_precision = forward_precision(inverse_precision)
            inverse_w = inverse_normalisation(inverse_precision, self.source.V, loss.normalisation)
        rows = self.backend.student_rows_(
            logits,
            loss.row_loss,
            RowTargets(
                mean_probs=None if loss.needs_mean_log_probs else target.mean_probs,
                mean_log_probs=target.mean_log_probs if loss.needs_mean_log_probs else None,
                inverse_w=inverse_w,
                inverse_precision=inverse_precision,
                references=None if self.references is None else self.references[begin:end],
                row_weight=None if self.token_weights is None else self.token_weights[begin:end],
            ),
            wants_gradient,
            gradient,
        )
        self._students.append(rows)
        # Without the (n, V) tensors, which live in the workspace.
        self._targets.append(
            ChunkTarget(
                total_uncertainty=target.total_uncertainty,
                mutual_information=target.mutual_information,
                epkl=target.epkl,
                reverse_mutual_information=target.reverse_mutual_information,
            )
        )
        return rows.loss

    def token_rows(self) -> TokenRows:
        """Return what the chunks left, one row a token."""
        students, targets = self._students, self._targets
        has_references = self.references is not None
        return TokenRows(
            _joined([rows.loss for rows in students]),
            _joined([rows.log_sum for rows in students]),
            _joined([rows.reference_logit for rows in students]) if has_references else None,
            _joined([rows.largest_logit for rows in students]),
            _joined_or_none([target.total_uncertainty for target in targets]),
            _joined_or_none([target.mutual_information for target in targets]),
            _joined_or_none([target.epkl for target in targets]),
            _joined_or_none([target.reverse_mutual_information for target in targets]),
        )


def walk_features(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    walk: Walk,
    wants: tuple[bool, ...],
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the loss sum and its gradients for logits = features · weightᵀ + bias.

    Args:
        features: (N, D).
        weight: (V, D).
        bias: (V) or None.
        walk: what is computed.
        wants: whether the gradient of features, weight and bias is wanted; others are None.
    """
    N, V = features.shape[0], weight.shape[0]
    dtype = walk.dtype
    wide = torch.promote_types(dtype, torch.float32)
    work = walk.begin(N, dtype, features.device)
    h, W = features.to(dtype), work.cast("student_weight", weight, dtype)
    b = None if bias is None else bias.to(dtype)
    d_features = features.new_zeros(features.shape, dtype=wide) if wants[0] else None
    d_weight = new_tensor(weight.shape, wide, weight.device) if wants[1] else None
    if d_weight is not None and N == 0:
        d_weight.zero_()
    d_bias = weight.new_zeros(V, dtype=wide) if bias is not None and wants[2] else None
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for begin, end in walk.chunks(N):
        target = walk.source.chunk(begin, end, walk.loss, walk.backend, work)
        logits = project(h[begin:end], W, b, work.get("logits", end - begin))
        if dtype == torch.float16:
            logits = work.get("wide_logits", end - begin, wide).copy_(logits)
        loss = walk.student_rows_(logits, target, begin, end, any(wants))
        total += loss.sum(dtype=torch.float64)
        gradient, scale = _for_products(logits, dtype)
        if d_features is not None:
            product = torch.mm(gradient, W)
            d_features[begin:end] = product if scale is None else product.to(wide) / scale
        if d_weight is not None:
            _add_product_(d_weight, gradient, h[begin:end], scale, work, is_first=begin == 0)
        if d_bias is not None:
            d_bias += logits.sum(0, dtype=wide)
    return total, (d_features, d_weight, d_bias)


def walk_logits(
    logits: Tensor, walk: Walk, wants_gradient: bool
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the loss sum and (its gradient in the logits, None, None) for given logits (N, V)."""
    N, V = logits.shape
    # float16 would flush the tail's derivatives to 0 before a loss scale can lift them.
    dtype = torch.float32 if logits.dtype == torch.float16 else logits.dtype
    gradient = new_tensor((N, V), dtype, logits.device) if wants_gradient else None
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    work = walk.begin(N, dtype, logits.device)
    for begin, end in walk.chunks(N):
        target = walk.source.chunk(begin, end, walk.loss, walk.backend, work)
        rows = work.get("logits", end - begin) if gradient is None else gradient[begin:end]
        z = logits[begin:end]
        if z.dtype != dtype or z.stride(1) != 1:
            z = rows.copy_(z)
        loss = walk.student_rows_(z, target, begin, end, wants_gradient, rows)
        total += loss.sum(dtype=torch.float64)
    return total, (gradient, None, None)


def _add_product_(
    d_weight: Tensor,
    gradient: Tensor,
    h: Tensor,
    scale: Tensor | None,
    work: Workspace,
    is_first: bool,
) -> None:
    """Add gradientᵀ · h of a chunk to the projection's gradient; the first is written."""
    if gradient.dtype == d_weight.dtype:
        if is_first:
            torch.mm(gradient.t(), h, out=d_weight)
        else:
            d_weight.addmm_(gradient.t(), h)
        return
    product = work.like("d_weight", d_weight.shape, gradient.dtype)
    torch.mm(gradient.t(), h, out=product)
    part = product if scale is None else product.to(d_weight.dtype) / scale
    if is_first:
        d_weight.copy_(part)
    else:
        d_weight += part


def _for_products(gradient: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return the logits' gradient as the products take it, and the scale that has to come off.

    float16 ends at 6e-8, far above what a tail of 40,000 pieces holds, and a loss scale would
    come too late here: so the chunk is scaled by a power of two that puts its largest entry
    near 2¹⁰.
    """
    if dtype != torch.float16:
        return gradient, None
    largest = gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.exp2((10 - largest.log2()).floor().clamp(-100, 100))
    return (gradient * scale).to(dtype), scale


def _joined(parts: list[Any]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0)


def _joined_or_none(parts: list[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given and len(given) == len(parts) else None
