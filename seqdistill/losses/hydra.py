"""Hydra's loss: head m matches member m (Tran et al. 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.mean_kl import mean_kl_rows
from seqdistill.losses.rows import check_vocabulary, masked_sum


def hydra_loss(
    head_logits: Tensor | Sequence[Tensor],
    member_log_probs: Tensor | Sequence[Tensor],
    token_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(1/M) Σ_m KL(p_m‖softmax(z_m)) per token; 0 where every head is its member.

    Args:
        head_logits: (M, ..., V), or M tensors (..., V), of the student's heads.
        member_log_probs: likewise, ln p_m of the members, in the heads' order.
        token_mask: (...) bool, True where a token counts; None counts all.

    Returns:
        Loss sum (scalar, nats) and the number of counted tokens.

    Raises:
        InputError: there are not as many heads as members, or shapes differ.

    Example:
        >>> import torch
        >>> members = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
        >>> loss_sum, tokens = hydra_loss(members, members)
        >>> bool(loss_sum.abs() < 1e-6), int(tokens)
        (True, 1)
    """
    M = len(head_logits)
    if len(member_log_probs) != M or M < 1:
        raise InputError(
            f"expected a head for each member, got {M} heads and {len(member_log_probs)} members"
        )
    total: Tensor | None = None
    count = torch.tensor(0)
    for logits, log_probs in zip(head_logits, member_log_probs, strict=True):
        check_vocabulary(logits, log_probs, "a member's log-probabilities")
        part, count = masked_sum(mean_kl_rows, logits, (log_probs.exp(),), token_mask)
        total = part if total is None else total + part
    assert total is not None  # there is a head
    return total / M, count
