"""What the ranks of the tests of sharded members do; each rank can make every rank's inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels import (
    DistillationLoss,
    MemberLogits,
    MemberProjections,
    ShardedMembers,
    fused_distillation_loss,
    sharded,
    sharded_statistics,
)
from seqdistill.teachers import ensemble_statistics
from seqdistill.teachers.group import TeacherGroup, together
from seqdistill.teachers.placement import members_of, shard_traffic

V, D = 67, 8
NAMES = [f"teacher{m}.pt" for m in range(5)]
LOSSES = (
    DistillationLoss("proxy_dirichlet"),
    DistillationLoss("end2", mix_weight=0.2),
    DistillationLoss("mean_kl"),
)


def made(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random numbers that are the same on all ranks."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def members_on(
    rank: int, tokens: int, chosen: list[int], temperature: float, by_logits: bool
) -> MemberProjections | MemberLogits:
    """Return members read on the batch of a rank."""
    features = [made(100 * rank + m, tokens, D) for m in chosen]
    weights = [made(900 + m, V, D) for m in chosen]
    names = [NAMES[m] for m in chosen]
    if by_logits:
        logits = [h @ w.t() for h, w in zip(features, weights, strict=True)]
        return MemberLogits(logits, temperature, names)
    biases = [made(950 + m, V) for m in chosen]
    return MemberProjections(features, weights, biases, temperature, names)


def spread(
    group: TeacherGroup,
    tokens: list[int],
    M: int,
    temperature: float = 1.0,
    by_logits: bool = False,
) -> ShardedMembers:
    """Return this rank's share of M members; ``tokens`` are those of the job's ranks."""
    own = members_of(group.rank, group.size, M)
    parts = [members_on(r, tokens[r], own, temperature, by_logits) for r in group.ranks]
    return ShardedMembers(parts, group, own, NAMES[:M])


def compare(rank: int, tokens: list[int], size: int, M: int) -> list[tuple[str, float]]:
    """Return how far sharded losses, gradients and statistics are from unsharded ones."""
    group = TeacherGroup.create(size)
    N = tokens[rank]
    found: list[tuple[str, float]] = []
    for by_logits, temperature, chunk in ((False, 1.0, 5), (False, 2.0, 150), (True, 1.0, 64)):
        whole = members_on(rank, N, list(range(M)), temperature, by_logits)
        for loss in LOSSES:
            results = []
            for target in (spread(group, tokens, M, temperature, by_logits), whole):
                h = made(50 + rank, N, D).requires_grad_()
                w = made(60, V, D).requires_grad_()
                result = fused_distillation_loss(
                    h, w, target, loss=loss, chunk_tokens=chunk, references=torch.zeros(N).long()
                )
                result.loss_sum.backward()
                rows = result.rows
                results.append((result.loss_sum.detach(), h.grad, w.grad, rows.epkl, rows.loss))
            for name, a, b in zip(("sum", "dh", "dw", "epkl", "loss"), *results, strict=True):
                found.append((f"{loss.kind} {name} chunk {chunk}", distance(a, b)))
        statistics = sharded_statistics(spread(group, tokens, M, temperature, by_logits))
        expected = ensemble_statistics(log_probs(whole), temperature=temperature)
        for name in ("mean_probs", "mean_log_probs", "data_uncertainty", "epkl"):
            a, b = getattr(statistics, name), getattr(expected, name)
            found.append((f"statistics {name}", distance(a, b)))
        assert (statistics.members, statistics.temperature) == (M, temperature)
    return found


def log_probs(members: MemberProjections | MemberLogits) -> list[Tensor]:
    """Return every member's log-probabilities."""
    if isinstance(members, MemberLogits):
        return [logits.log_softmax(-1) for logits in members.logits]
    biases = members.biases
    assert biases is not None
    logits = [
        h @ w.t() + b for h, w, b in zip(members.features, members.weights, biases, strict=True)
    ]
    return [one.log_softmax(-1) for one in logits]


def distance(a: Tensor | None, b: Tensor | None) -> float:
    """Return the largest difference, in units of the larger values; 0 for nothing."""
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp_min(1.0)) if a.numel() else 0.0


def small_transfers(rank: int, tokens: list[int], overlap: bool) -> tuple[float, float, int, int]:
    """Walk with transfers smaller than a chunk; return differences and the bytes that were sent."""
    sharded._CPU_ELEMENTS = 1
    group = TeacherGroup.create(len(tokens))
    source = sharded.ShardedSource(spread(group, tokens, 4), None, torch.float32, overlap)
    work = sharded.Workspace(min(150, source.longest), V, torch.float32, torch.device("cpu"))
    backend = sharded.select_backend("eager", work.device, torch.float32)
    source.start(150, backend, work)
    means = [
        [part.clone() for part in source.means(begin, min(begin + 150, tokens[rank]))]
        for begin in range(0, tokens[rank], 150)
    ]
    source.finish()
    expected = ensemble_statistics(
        log_probs(members_on(rank, tokens[rank], [0, 1, 2, 3], 1, False))
    )
    probs = distance(torch.cat([part[0] for part in means]), expected.mean_probs)
    entropies = distance(torch.cat([part[2] for part in means]), -expected.data_uncertainty)
    wanted = shard_traffic(V, len(tokens), tokens)[rank]
    return probs, entropies, group.sent_bytes, wanted


def with_nan(rank: int, size: int) -> None:
    """Walk with a member that is NaN for one token of the last rank only."""
    group = TeacherGroup.create(size)
    tokens = [3, 9, 4, 6]
    members = spread(group, tokens, 4)
    if group.rank == 1 and group.ranks[0] == 0:  # the second member, which group 0's rank 1 holds
        members.parts[0].features[0][2, 1] = torch.nan
    h, w = made(1, tokens[rank], D), made(2, V, D)
    fused_distillation_loss(h, w, members, chunk_tokens=4)


def gathered(rank: int) -> list[dict[str, Any]]:
    """Gather tensors of several kinds whose shapes differ from rank to rank."""
    group = TeacherGroup.create(3)
    batches = group.gather(
        {
            "tokens": torch.arange(2 * (rank + 1)).view(2, rank + 1) + rank,
            "features": made(rank, rank, 3, 2, dtype=torch.bfloat16),
            "mask": torch.tensor([True, False, rank == 1]),
        }
    )
    return [{name: value.tolist() for name, value in batch.items()} for batch in batches]


def fails_on_one(rank: int, kind: type[Exception]) -> str:
    """Run an action that fails on rank 1."""

    def action() -> str:
        if rank == 1:
            raise kind("teacher2.pt is cut short")
        return "fine"

    return together(action)


def make_groups(rank: int, size: int) -> None:
    """Make teacher groups of a size."""
    TeacherGroup.create(size)


def different_names(rank: int) -> None:
    """Gather under other names on one rank."""
    TeacherGroup.create(2).gather({f"input{rank}": torch.zeros(1)})


def masked(rank: int) -> None:
    """Give a token mask beside sharded members."""
    members = spread(TeacherGroup.create(2), [3, 3], 2)
    fused_distillation_loss(made(1, 3, D), made(2, V, D), members, torch.ones(3).bool())


def all_of(rank: int, calls: list[tuple[Callable[..., Any], tuple]]) -> list[Any]:
    """Make calls one after another; return what each returned, or the error that all ranks had."""
    results = []
    for action, arguments in calls:
        try:
            results.append(action(rank, *arguments))
        except (InputError, OSError) as error:
            results.append(error)
    return results
