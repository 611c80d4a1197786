"""Where an ensemble's members live: in every rank, spread over ranks, or in the host's memory.

What each placement costs in memory and in traffic is counted here, for the documentation, for
planning and for the tests that compare it with what is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from seqdistill.errors import InputError

PLACEMENTS = ("replicate", "shard", "offload")

# Bodies that are on the device at a time when they are offloaded: the one at work, and the next.
OFFLOAD_SLOTS = 2


@dataclass(frozen=True)
class TeacherMemory:
    """What the weights of an ensemble take, in bytes a rank.

    Attributes:
        device: of the accelerator.
        host: of page-locked memory beside it.
    """

    device: int
    host: int


def members_of(rank: int, group_size: int, M: int) -> list[int]:
    """Return which of M members a rank of a teacher group holds, from 0.

    Args:
        rank: in the group, from 0.
        group_size: G.
        M: members of the ensemble.
    """
    return list(range(rank, M, group_size))


def choose_group_size(hosts: Sequence[str], M: int) -> int:
    """Return the size of teacher groups where none is asked for.

    Groups stay inside a node and are of equal size: the largest number, at most M, that divides
    the neighbouring ranks of every node.

    Args:
        hosts: the node of each rank, in the order of the ranks.
        M: members of the ensemble.

    Example:
        >>> choose_group_size(["a"] * 8 + ["b"] * 8, M=20), choose_group_size(["a"] * 8, M=5)
        (8, 4)
    """
    boundaries = [r for r in range(1, len(hosts)) if hosts[r] != hosts[r - 1]] + [len(hosts)]
    fitting = [g for g in range(1, M + 1) if all(boundary % g == 0 for boundary in boundaries)]
    return max(fitting)


def check_group_size(group_size: int, ranks: int, M: int) -> None:
    """Raise an :class:`InputError` if ranks cannot be split into groups of a size.

    Args:
        group_size: as it was asked for.
        ranks: of the job.
        M: members of the ensemble.
    """
    if group_size < 1:
        raise InputError(f"--teacher-group-size {group_size}: expected at least 1")
    if group_size > M:
        raise InputError(
            f"--teacher-group-size {group_size}: the ensemble has {M} members, so {group_size - M} "
            f"ranks of a group would hold none; take at most {M}"
        )
    if ranks % group_size:
        raise InputError(
            f"--teacher-group-size {group_size}: the training has {ranks} processes, which cannot "
            f"be split into groups of {group_size}; take a divisor of {ranks}"
        )


def teacher_memory(
    placement: str, M: int, body_bytes: int, projection_bytes: int, group_size: int = 1
) -> TeacherMemory:
    """Return what the weights of M members take on a rank.

    Args:
        placement: one of :data:`PLACEMENTS`.
        M: members.
        body_bytes: of one member without its output projection.
        projection_bytes: of one member's output projection (V, D), tied embeddings included.
        group_size: G, for ``shard``.

    Raises:
        InputError: another placement.

    Example:
        >>> teacher_memory("shard", M=20, body_bytes=10, projection_bytes=2, group_size=8).device
        36
    """
    if placement == "replicate":
        return TeacherMemory(M * (body_bytes + projection_bytes), 0)
    if placement == "shard":
        return TeacherMemory(-(-M // group_size) * (body_bytes + projection_bytes), 0)
    if placement == "offload":
        slots = min(M, OFFLOAD_SLOTS)
        return TeacherMemory(slots * body_bytes + M * projection_bytes, M * body_bytes)
    raise InputError(f"expected a placement among {', '.join(PLACEMENTS)}, got {placement!r}")


def sums_bytes_per_token(V: int) -> int:
    """Return the bytes of the three sums of a token: Σ p and Σ ln p (V), and Σ p ln p, float32."""
    return 4 * (2 * V + 1)


def shard_traffic(V: int, group_size: int, tokens: Sequence[int]) -> list[int]:
    """Return the bytes of sums that each rank of a teacher group sends for one batch each.

    To each of the other ranks it sends the sums of that rank's tokens: (8V + 4) bytes a token.
    Over the group that is (G − 1)(8V + 4) bytes a token, the least that a sum over G ranks can do
    with; it receives (G − 1)(8V + 4) bytes for each token of its own.

    Args:
        V: vocabulary size.
        group_size: G.
        tokens: counted tokens of each rank's batch, G numbers.

    Raises:
        InputError: not one number a rank.

    Example:
        >>> shard_traffic(V=40_000, group_size=2, tokens=[1000, 800])
        [256003200, 320004000]
    """
    if len(tokens) != group_size:
        raise InputError(f"expected the tokens of {group_size} ranks, got {len(tokens)}")
    return [(sum(tokens) - own) * sums_bytes_per_token(V) for own in tokens]


def offload_traffic(M: int, body_bytes: int) -> int:
    """Return the bytes that go to the accelerator for one batch: every body once.

    With two members both stay there.

    Args:
        M: members.
        body_bytes: of one member without its output projection.
    """
    return M * body_bytes if M > OFFLOAD_SLOTS else 0
