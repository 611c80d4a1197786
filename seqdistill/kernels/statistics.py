"""The statistics of an ensemble whose members are at hand together, by the fastest row kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.select import select_backend
from seqdistill.kernels.sources import member_name
from seqdistill.teachers import EnsembleStatistics


def joint_ensemble_statistics(
    members: Sequence[Tensor], *, names: Sequence[str] | None = None, backend: str = "auto"
) -> EnsembleStatistics:
    """Return the statistics of M members that exist at the same time, as in a step of decoding.

    The same as :func:`~seqdistill.teachers.ensemble_statistics`, which reads them one after
    another, at a fraction of its passes over memory where there are compiled kernels.

    Args:
        members: M tensors (n, V) of log-probabilities or logits; any constant of a row may be
            missing. None is changed.
        names: what errors call the members.
        backend: of the row operations: ``auto``, ``eager``, ``cpp`` or ``triton``.

    Returns:
        The statistics, each (n) or (n, V), float32 at least.

    Raises:
        InputError: fewer than two members, shapes that differ, or NaN (the member is named).

    Example:
        >>> import torch
        >>> members = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()]
        >>> joint_ensemble_statistics(members).mean_probs
        tensor([[0.7000, 0.3000]])
    """
    M = len(members)
    if M < 2:
        raise InputError(
            f"an ensemble needs at least 2 members, got {M}; one model has no disagreement"
        )
    n, V = members[0].shape
    for m, member in enumerate(members):
        if member.shape != (n, V):
            raise InputError(
                f"{member_name(names, m)} has shape {tuple(member.shape)}, the members before it "
                f"{(n, V)}; all must share one vocabulary and batch"
            )
    dtype = torch.promote_types(members[0].dtype, torch.float32)
    rows = [member.detach().to(dtype) for member in members]
    rows = [member if member.stride(1) == 1 else member.contiguous() for member in rows]
    chosen = select_backend(backend, rows[0].device, dtype)
    mean_probs, mean_log_probs = rows[0].new_empty(2, n, V).unbind()
    entropies = rows[0].new_empty(M, n)
    chosen.add_members_(rows, 1.0, 1 / M, mean_probs, mean_log_probs, entropies, is_first=True)
    total, rmi = chosen.ensemble_rows(mean_probs, mean_log_probs, entropies[0])
    data = -entropies.sum(0)
    # One look for all members: a NaN in any makes a NaN here.
    if bool(data.isnan().any()):
        m = int(entropies.isnan().any(1).nonzero()[0])
        raise InputError(
            f"NaN log-probabilities from {member_name(names, m)} "
            f"({int(entropies[m].isnan().sum())} tokens); check that checkpoint, and its dtype "
            "(float16 overflows where bfloat16 and float32 do not)"
        )
    mutual_information = (total - data).clamp_min_(0.0)
    return EnsembleStatistics(
        mean_probs=mean_probs,
        mean_log_probs=mean_log_probs,
        total_uncertainty=total,
        data_uncertainty=data,
        mutual_information=mutual_information,
        epkl=mutual_information + rmi,
        reverse_mutual_information=rmi,
        members=M,
    )
