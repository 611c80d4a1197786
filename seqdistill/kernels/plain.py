"""The slow form of the fused loss: from logits of all tokens, by the plain functions.

It is what ``--no-fused-loss`` trains with, what students use that give no features, and what the
fused loss is compared with.
"""

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.losses import (
    end2_loss,
    label_smoothed_cross_entropy,
    mean_kl_loss,
    proxy_dirichlet_forward_loss,
    proxy_dirichlet_loss,
)
from seqdistill.targets import proxy_dirichlet_target
from seqdistill.targets.sparse import SparseTarget
from seqdistill.teachers import EnsembleStatistics


def plain_distillation_loss(
    logits: Tensor,
    target: EnsembleStatistics | SparseTarget,
    token_mask: Tensor | None = None,
    *,
    loss: DistillationLoss | None = None,
    references: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Distil an ensemble into logits that exist already.

    Args:
        logits: (..., V) of the student.
        target: the ensemble's statistics (..., V), or the sparse target of the same tokens.
        token_mask: (...) bool, True where a token counts; None counts all.
        loss: which loss; the Proxy-Dirichlet's reverse KL by default.
        references: (...) reference pieces, for a mixed-in cross-entropy.

    Returns:
        Loss sum (scalar, nats) and the number of counted tokens.

    Raises:
        InputError: shapes do not fit, or references are missing.

    Example:
        >>> import torch
        >>> from seqdistill.teachers import ensemble_statistics
        >>> s = ensemble_statistics(torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log())
        >>> loss_sum, tokens = plain_distillation_loss(torch.zeros(1, 2), s)
        >>> int(tokens)
        1
    """
    loss = loss if loss is not None else DistillationLoss()
    if loss.needs_mean_log_probs and isinstance(target, SparseTarget):
        target.mean_log_probs()  # says what is missing, before NaN could stand for it
    statistics = target.statistics() if isinstance(target, SparseTarget) else target
    if loss.kind == "mean_kl":
        loss_sum, token_count = mean_kl_loss(logits, statistics, token_mask)
    elif loss.kind == "end2":
        loss_sum, token_count = end2_loss(logits, statistics, token_mask, offset=loss.offset)
    else:
        proxy = (
            target.proxy(loss.concentration)
            if isinstance(target, SparseTarget)
            else proxy_dirichlet_target(target, loss.concentration)
        )
        reverse = loss.kind == "proxy_dirichlet"
        function = proxy_dirichlet_loss if reverse else proxy_dirichlet_forward_loss
        loss_sum, token_count = function(
            logits, proxy, token_mask, offset=loss.offset, normalisation=loss.normalisation
        )
    if not loss.mix_weight:
        return loss_sum, token_count
    if references is None:
        raise InputError("a mixed-in cross-entropy needs references; give them, or mix_weight 0")
    cross_entropy, _ = label_smoothed_cross_entropy(
        logits, references, token_mask, label_smoothing=loss.label_smoothing
    )
    return (1 - loss.mix_weight) * loss_sum + loss.mix_weight * cross_entropy, token_count
