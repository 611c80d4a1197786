"""Ensemble distillation (EnD): the student matches the ensemble's mean distribution."""

import torch
from torch import Tensor

from seqdistill.losses.rows import check_vocabulary, masked_sum
from seqdistill.teachers import EnsembleStatistics


def mean_kl_loss(
    logits: Tensor,
    statistics: EnsembleStatistics,
    token_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """KL(p̄‖softmax(z)) per token (Hinton, Vinyals & Dean 2015); 0 where both agree.

    Args:
        logits: (..., V) student logits z, any floating dtype.
        statistics: the ensemble's, with mean_probs (..., V).
        token_mask: (...) bool, True where a token counts; None counts all.

    Returns:
        Loss sum (scalar, nats) and the number of counted tokens.

    Raises:
        InputError: shapes differ.

    Example:
        >>> import torch
        >>> from seqdistill.teachers import ensemble_statistics
        >>> s = ensemble_statistics(torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log())
        >>> loss_sum, tokens = mean_kl_loss(s.mean_probs.log(), s)
        >>> bool(loss_sum.abs() < 1e-6), int(tokens)
        (True, 1)
    """
    check_vocabulary(logits, statistics.mean_probs, "the ensemble's mean_probs")
    return masked_sum(mean_kl_rows, logits, (statistics.mean_probs,), token_mask)


def mean_kl_rows(
    z: Tensor, targets: tuple[Tensor, ...], wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the loss (n) and its derivative (n, V); targets: p̄ (n, V)."""
    mean_probs = targets[0]
    log_probs = torch.log_softmax(z, dim=-1)
    log_mean = mean_probs.clamp_min(torch.finfo(z.dtype).tiny).log()
    # Differences first: a sum of p̄ ln p̄ minus a sum of p̄ ln p would cancel near the optimum.
    loss = (mean_probs * (log_mean - log_probs)).sum(-1)
    if not wants_gradient:
        return loss, None
    # Σ p̄ is 1 up to rounding; the exact derivative uses the sum itself.
    mass = mean_probs.sum(-1, keepdim=True)
    return loss, log_probs.exp() * mass - mean_probs
