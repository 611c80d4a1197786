"""Hydra's loss fused with the projections: one walk over the tokens of all heads."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.fused import fused_distillation_loss
from seqdistill.kernels.members import MemberLogits, MemberProjections
from seqdistill.kernels.paired import PairedMembers
from seqdistill.kernels.settings import DistillationLoss


@dataclass(frozen=True)
class HydraLoss:
    """The result of :func:`fused_hydra_loss`.

    Attributes:
        loss_sum: scalar in nats, differentiable once in the heads' features, weight and bias.
        token_count: number of tokens, N.
        log_probs: (N) ln mean_m p_m of the reference pieces; 0 without references.
        correct: (N) share of the heads whose most probable piece is the reference's.
    """

    loss_sum: Tensor
    token_count: Tensor
    log_probs: Tensor
    correct: Tensor


def fused_hydra_loss(
    heads: Tensor,
    weight: Tensor,
    members: MemberProjections | MemberLogits,
    *,
    bias: Tensor | None = None,
    loss: DistillationLoss | None = None,
    references: Tensor | None = None,
    products: str | None = None,
    backend: str = "auto",
    chunk_tokens: int | None = None,
) -> HydraLoss:
    """(1/M) Σ_m [(1 − w) KL(p_m‖q_m) + w CE(q_m)] of heads q_m = softmax(heads_m · weightᵀ + bias).

    The same as :func:`~seqdistill.losses.hydra_loss` of all logits, of which no (M, N, V) and no
    (N, V) is ever held; and w of a cross-entropy, which every head has for itself.

    Args:
        heads: (M, N, D) features of the heads at N counted tokens.
        weight: (V, D) the projection that they share.
        members: M, read on the same tokens.
        bias: (V) of the projection.
        loss: ``mean_kl`` with its mixture; without one by default.
        references: (N) reference pieces.
        products: as in :func:`~seqdistill.kernels.fused_distillation_loss`, as the next.
        backend: of the rows.
        chunk_tokens: tokens (of a head) at a time.

    Raises:
        InputError: there are not as many heads as members, shapes do not fit, or a member gave NaN.

    Example:
        >>> import torch
        >>> members = MemberLogits(torch.randn(2, 3, 5))
        >>> result = fused_hydra_loss(torch.randn(2, 3, 4), torch.randn(5, 4), members)
        >>> bool(result.loss_sum > 0), int(result.token_count)
        (True, 3)
    """
    given = members.features if isinstance(members, MemberProjections) else members.logits
    if heads.dim() != 3 or len(heads) != len(given):
        raise InputError(
            f"expected features (M, N, D) of a head for each of {len(given)} members, got "
            f"{tuple(heads.shape)}; a Hydra student has the teachers that it was trained with"
        )
    M, N, D = heads.shape
    wide = torch.promote_types(heads.dtype, torch.float32)
    kind = loss if loss is not None else DistillationLoss("mean_kl")
    if kind.kind != "mean_kl":
        raise InputError(f"Hydra's heads learn by the KL from their members, got {kind.kind!r}")
    result = fused_distillation_loss(
        heads.reshape(M * N, D),
        weight,
        PairedMembers(members),
        bias=bias,
        loss=replace(kind, offset=1.0),
        references=None if references is None else references.repeat(M),
        token_weights=heads.new_full((M * N,), 1 / M, dtype=wide),
        products=products,
        backend=backend,
        chunk_tokens=chunk_tokens,
    )
    rows = result.rows
    log_probs = correct = rows.log_sum.new_zeros(N)
    if rows.reference_logit is not None:
        of_heads = (rows.reference_logit - rows.log_sum).view(M, N)
        log_probs = torch.logsumexp(of_heads, dim=0) - math.log(M)
        right = rows.reference_logit.ge(rows.largest_logit)
        correct = right.view(M, N).to(log_probs.dtype).mean(dim=0)
    return HydraLoss(result.loss_sum, torch.tensor(N, device=heads.device), log_probs, correct)
