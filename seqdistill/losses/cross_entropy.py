"""Label-smoothed cross-entropy, the loss that distillation may be mixed with."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqdistill.errors import InputError
from seqdistill.losses.rows import RowFunction, masked_sum


def label_smoothed_cross_entropy(
    logits: Tensor,
    references: Tensor,
    token_mask: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(z) against references smoothed by ε.

    Per token −Σ_v q_v ln p_v with q = 1 − ε on the reference piece and ε/(V − 1) on every other
    (Szegedy et al. 2016; the convention of fairseq).

    Args:
        logits: (..., V) student logits.
        references: (...) integer indices of the reference pieces.
        token_mask: (...) bool, True where a token counts; None counts all.
        label_smoothing: ε in [0, 1).

    Returns:
        Loss sum (scalar, nats) and the number of counted tokens.

    Raises:
        InputError: ε is out of range, or shapes differ.

    Example:
        >>> import torch
        >>> loss_sum, _ = label_smoothed_cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
        >>> loss_sum
        tensor(1.3863)
    """
    if not 0 <= label_smoothing < 1:
        raise InputError(f"expected a label smoothing in [0, 1), got {label_smoothing}")
    return masked_sum(_rows(label_smoothing), logits, (references,), token_mask)


def projected_cross_entropy(
    features: Tensor,
    weight: Tensor,
    references: Tensor,
    bias: Tensor | None = None,
    *,
    chunk_tokens: int = 1024,
) -> Tensor:
    """Cross-entropy of N tokens' features with the logits of a few tokens at a time in memory.

    Logits of a chunk are computed again for its gradient, so that (N, V) is never there.

    Args:
        features: (N, D) of the decoder.
        weight: (V, D) of the output projection.
        references: (N) indices of the reference pieces.
        bias: (V) of the projection.
        chunk_tokens: tokens of a chunk.

    Returns:
        −Σ ln p(reference), scalar, nats.

    Example:
        >>> import torch
        >>> projected_cross_entropy(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 3]))
        tensor(2.7726)
    """

    def of_chunk(chunk: Tensor, own: Tensor) -> Tensor:
        logits = nn.functional.linear(chunk, weight, bias)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return nn.functional.cross_entropy(wide, own, reduction="sum")

    losses: list[Tensor] = [
        checkpoint(of_chunk, chunk, own, use_reentrant=False)
        for chunk, own in zip(
            torch.split(features, chunk_tokens), torch.split(references, chunk_tokens), strict=True
        )
    ]
    return torch.stack(losses).sum()


def _rows(label_smoothing: float) -> RowFunction:
    def rows(
        z: Tensor, targets: tuple[Tensor, ...], wants_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        V = z.shape[-1]
        references = targets[0].long().unsqueeze(-1)
        log_probs = torch.log_softmax(z, dim=-1)
        other = label_smoothing / (V - 1)
        reference = 1 - label_smoothing - other
        loss = -reference * log_probs.gather(-1, references).squeeze(-1)
        if label_smoothing:
            loss = loss - other * log_probs.sum(-1)
        if not wants_gradient:
            return loss, None
        gradient = log_probs.exp_().sub_(other)
        return loss, gradient.scatter_add_(
            -1, references, torch.full_like(references, -reference, dtype=z.dtype)
        )

    return rows
