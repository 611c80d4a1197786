"""This project's fused loss as the benchmarks call it, and targets for it."""

import torch
from torch import Tensor

from benchmarks.inputs import Inputs
from seqdistill.kernels import (
    BACKENDS,
    DistillationLoss,
    FusedLoss,
    MemberLogits,
    MemberProjections,
    backend_status,
    fused_distillation_loss,
)
from seqdistill.kernels.sources import Target
from seqdistill.kernels.triton import interpreting
from seqdistill.targets.sparse import SparseTarget
from seqdistill.teachers import ensemble_statistics

#: The research code's settings: offset 1, precision by RMI ("mkl"), divided by β̃₀ + V.
LOSS = DistillationLoss("proxy_dirichlet", concentration="mkl", normalisation="total", offset=1.0)

# Tokens whose full distributions exist at once while a stored target is made.
_ROWS = 64


def usable_backends(device: str) -> tuple[list[str], dict[str, str]]:
    """Return the backends that can be timed on a device, and why others cannot.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    usable, refused = [], {}
    for name in BACKENDS:
        if name == "auto":
            continue
        if name == "cpp" and device != "cpu":
            refused[name] = "it computes on the CPU"
        elif name == "triton" and (device != "cuda" or interpreting()):
            refused[name] = "it is for GPUs; its interpreter shows correctness, not speed"
        else:
            can, reason = backend_status(name)
            if can:
                usable.append(name)
            else:
                refused[name] = reason
    return usable, refused


def online_target(
    inputs: Inputs, member_logits: Tensor | None, dtype: torch.dtype = torch.float32
) -> Target:
    """Return the members as the fused loss takes them.

    Args:
        inputs: with the members' features and projections.
        member_logits: (B, T, M, V) if logits are what is given.
        dtype: in which features and projections are held.
    """
    if member_logits is None:
        # A weight that all members share stays one.
        cast = {id(member.weight): member.weight for member in inputs.members}
        cast = {key: weight.to(dtype) for key, weight in cast.items()}
        return MemberProjections(
            [member.features.to(dtype) for member in inputs.members],
            [cast[id(member.weight)] for member in inputs.members],
        )
    M, V = member_logits.shape[2:]
    flat = member_logits.view(-1, M, V)
    return MemberLogits([flat[:, m] for m in range(M)])


def fused_loss(
    features: Tensor,
    weight: Tensor | None,
    target: Target,
    *,
    references: Tensor | None,
    products: str | None,
    backend: str,
) -> FusedLoss:
    """Return the loss with the research code's settings.

    Args:
        features: (N, D), or the logits (N, V) where ``weight`` is None.
        weight: (V, D) or None.
        target: members, or a stored target.
        references: (N) for the log.
        products: ``float32`` or ``bfloat16``.
        backend: its name.
    """
    return fused_distillation_loss(
        features,
        weight,
        target,
        loss=LOSS,
        references=references,
        products=products,
        backend=backend,
    )


@torch.no_grad()
def stored_target(inputs: Inputs, pieces: int) -> SparseTarget:
    """Return what a store holds of the inputs' members: top pieces, tail mass, exact measures.

    The prior is the mean of these tokens, where a store has the corpus's.

    Args:
        inputs: whose members are kept.
        pieces: kept a token; the whole vocabulary if that is smaller.
    """
    V, M, N, _ = inputs.sizes
    # Statistics want two; the same one twice agrees with itself as one does.
    members = inputs.members * (2 if M == 1 else 1)
    kept: list[tuple[Tensor, ...]] = []
    prior = torch.zeros(V, dtype=torch.float64, device=inputs.references.device)
    for rows in torch.split(torch.arange(N, device=prior.device), _ROWS):
        log_probs = (
            torch.log_softmax(member.features[rows] @ member.weight.T, -1) for member in members
        )
        s = ensemble_statistics(log_probs)
        probs, index = s.mean_probs.topk(min(pieces, V), dim=-1)
        prior += s.mean_probs.sum(0)
        kept.append(
            (
                index,
                probs,
                (1 - probs.sum(-1, dtype=torch.float64)).clamp_min(0).float(),
                s.total_uncertainty,
                s.mutual_information,
                s.epkl,
                s.reverse_mutual_information,
            )
        )
    index, probs, tail, total, mutual, epkl, rmi = (torch.cat(c) for c in zip(*kept, strict=True))
    return SparseTarget(
        pieces=index,
        probs=probs,
        tail_mass=tail,
        prior=(prior / prior.sum()).float(),
        total_uncertainty=total,
        mutual_information=mutual,
        epkl=epkl,
        reverse_mutual_information=rmi,
        exact_inverse_precision=None,
        log_probs=None,
        tail_log_shift=None,
        log_prior=None,
        members=M,
    )
