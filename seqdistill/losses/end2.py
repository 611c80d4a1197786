"""Ensemble Distribution Distillation (EnD²): the Dirichlet's negative log-likelihood."""

from collections.abc import Iterable

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.rows import RowFunction, check_offset, check_vocabulary, masked_sum
from seqdistill.numerics import DirichletTerms
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics


def end2_loss(
    logits: Tensor,
    members: EnsembleStatistics | Tensor | Iterable[Tensor],
    token_mask: Tensor | None = None,
    *,
    offset: float = 1.0,
    temperature: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the members' distributions under the student's Dirichlet.

    Per token L = Σ lnΓ(α_v) − lnΓ(α₀) − Σ (α_v − 1) ℓ̄_v with α = e^z + offset (Malinin, Mlodozeniec
    & Gales 2020, eq. 9). Its gradient e^z (ψ(α) − ψ(α₀) − ℓ̄) lets the tail of a large vocabulary
    dominate, which is what the Proxy-Dirichlet repairs.

    Args:
        logits: (..., V) student logits z, any floating dtype.
        members: the ensemble's statistics, or the members' log-probabilities: a tensor
            (M, ..., V) or an iterable of M tensors (..., V).
        token_mask: (...) bool, True where a token counts; None counts all.
        offset: o in α = e^z + o, 1 or 0.
        temperature: the teachers' temperature, annealed towards 1 in training; members are read
            as softmax(ln p_m / T). Default: that of the statistics, or 1.

    Returns:
        Loss sum (scalar, nats; a log-density, so it may be negative) and the counted tokens.

    Raises:
        InputError: shapes differ, or statistics were computed at another temperature.

    Example:
        >>> import torch
        >>> members = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
        >>> loss_sum, tokens = end2_loss(torch.zeros(1, 2), members)
        >>> int(tokens)
        1
    """
    check_offset(offset)
    if isinstance(members, EnsembleStatistics):
        if temperature is not None and temperature != members.temperature:
            raise InputError(
                f"the statistics were computed at temperature {members.temperature}, the loss was "
                f"asked for {temperature}; pass that temperature to ensemble_statistics"
            )
        statistics = members
    else:
        statistics = ensemble_statistics(
            members, temperature=1.0 if temperature is None else temperature, token_mask=token_mask
        )
    check_vocabulary(logits, statistics.mean_log_probs, "the members' log-probabilities")
    return masked_sum(end2_rows(offset), logits, (statistics.mean_log_probs,), token_mask)


def end2_rows(offset: float) -> RowFunction:
    """Return the row function; its targets: ℓ̄ (n, V)."""

    def rows(
        z: Tensor, targets: tuple[Tensor, ...], wants_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        mean_log_probs = targets[0]
        terms = DirichletTerms(z, offset)
        elements, row = terms.elements, terms.row
        # ± S ln S cancels on paper: what is left is a weighted misfit and bounded terms.
        weighted = z.exp() * (terms.digamma_gap - mean_log_probs)
        local = elements.entropy_term
        if offset == 1:
            outside = (terms.V - 1) * (1 - row.digamma) - row.entropy_term
        else:
            local = local - z + mean_log_probs
            outside = terms.row_z - row.entropy_term
        loss = (weighted + local).sum(-1) + outside.squeeze(-1)
        if not wants_gradient:
            return loss, None
        return loss, weighted if offset == 1 else weighted + terms.probs - 1

    return rows
