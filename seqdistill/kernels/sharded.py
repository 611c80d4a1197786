"""Members that are spread over ranks: each adds up its own, and sends the sums where they belong.

The three sums of an ensemble's statistics (Σ p, Σ ln p, Σ_v p ln p) add over ranks. Every rank of a
teacher group reads the batches of all of them with the members it holds. For a chunk of its own
tokens it adds up what the others send; the others' chunks it sends them, in shifts: in shift d to
the rank d behind it, while what the rank d before it has computed arrives. What is sent is cut into
transfers of a bounded size; on a GPU, while one is under way the next is computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.backend import RowBackend
from seqdistill.kernels.chunks import (
    ChunkTarget,
    TargetSource,
    default_chunk_tokens,
    ensemble_target,
)
from seqdistill.kernels.members import MemberLogits, MemberProjections, MemberSource, refuse_nan
from seqdistill.kernels.select import select_backend
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.workspace import Workspace
from seqdistill.teachers import EnsembleStatistics
from seqdistill.teachers.group import Exchange, TeacherGroup
from seqdistill.teachers.statistics import statistics_of_means

# Rows of one transfer: 20 MiB of sums on a CPU, 128 MiB on a GPU; at least that many tokens.
_CPU_ELEMENTS, _GPU_ELEMENTS, _LEAST_TOKENS = 5 << 19, 1 << 24, 64

#: Whether the next transfer is computed while one is under way. None: on GPUs; on a CPU, whose
#: cores move the bytes themselves, a tenth of a step was gained on a quiet machine and more lost
#: on a busy one; and it takes two buffers more.
OVERLAP: bool | None = None


@dataclass(frozen=True)
class ShardedMembers:
    """An ensemble of which this rank holds some members.

    Attributes:
        parts: this rank's members, read on the counted tokens of each rank of the group, in the
            order of the ranks; their numbers of tokens may differ, and be 0.
        group: the ranks among which the members are spread.
        own: which members these are, from 0.
        names: of all M members, in the order of the ensemble.

    Raises:
        InputError: the parts are not one a rank, or not of the members they should be.
    """

    parts: Sequence[MemberProjections | MemberLogits]
    group: TeacherGroup
    own: Sequence[int]
    names: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.parts) != self.group.size:
            raise InputError(
                f"expected the members read on {self.group.size} batches, one a rank of the "
                f"group, got {len(self.parts)}"
            )

    @property
    def device(self) -> torch.device:
        """Where this rank's members are."""
        return self.parts[0].device


@dataclass(frozen=True)
class _Transfer:
    """A transfer under way: what of it is received belongs to rows of the chunk at hand."""

    exchange: Exchange
    arriving: Tensor | None
    rows: slice


class ShardedSource(TargetSource):
    """Adds up members over ranks; all ranks of a group walk together, however long their batches.

    Args:
        members: this rank's.
        index: must be None; the members were read on the counted tokens only.
        dtype: of the members' products.
        overlap: whether the next transfer is computed while one is under way; None: as
            :data:`OVERLAP` says.

    Raises:
        InputError: tokens that do not count are still there.
    """

    def __init__(
        self,
        members: ShardedMembers,
        index: Tensor | None,
        dtype: torch.dtype,
        overlap: bool | None = None,
    ) -> None:
        if index is not None:
            raise InputError(
                "sharded members are read on counted tokens only; give the student's features of "
                "those, without a token mask"
            )
        self.members = members
        self.group = members.group
        self._sources = [MemberSource(part, None, dtype) for part in members.parts]
        self._own = self._sources[self.group.rank]
        self.tokens, self.V = self._own.tokens, self._own.V
        self._round = 0
        self._device = members.device
        asked = OVERLAP if overlap is None else overlap
        self._overlap = self._device.type != "cpu" if asked is None else asked

    @property
    def longest(self) -> int:
        """The tokens of the longest batch of the group."""
        return max(source.tokens for source in self._sources)

    def start(self, chunk_tokens: int, backend: RowBackend, work: Workspace) -> None:
        """Begin a walk of the group; ``chunk_tokens`` must be the same on all its ranks."""
        self._chunk_tokens = chunk_tokens
        self._transfer_tokens = min(chunk_tokens, transfer_tokens(self.V, work.device))
        self._backend = backend
        self._work = work
        self._dtype = torch.promote_types(work.dtype, torch.float32)

    def chunk(
        self, begin: int, end: int, loss: DistillationLoss, backend: RowBackend, work: Workspace
    ) -> ChunkTarget:
        """Return the statistics of a chunk, of all members."""
        return ensemble_target(loss, backend, *self.means(begin, end))

    def means(self, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return p̄ (n, V), ℓ̄ (n, V) and mean_m Σ_v p_m ln p_m (n) of a chunk, of all members.

        They are in memory that the next chunk uses again.
        """
        mean_probs = self._work.get("mean_probs", end - begin, self._dtype).zero_()
        mean_log_probs = self._work.get("mean_log_probs", end - begin, self._dtype).zero_()
        sums = mean_probs, mean_log_probs, mean_probs.new_zeros(end - begin)
        self._walk_round(sums)
        return sums

    def finish(self) -> None:
        """Read what is left of the others' batches; refuse NaN, on every rank of the job.

        Raises:
            InputError: a member gave NaN, on whichever rank it is; it is named.
        """
        while self._round * self._chunk_tokens < self.longest:
            self._walk_round(None)
        counts = torch.zeros(len(self.members.names), dtype=torch.int64, device=self._device)
        for source in self._sources:
            found = source.nan_tokens()
            if found is not None:
                counts[list(self.members.own)] += found
        refuse_nan(self.group.sum_over_job(counts).tolist(), self.members.names)

    def _walk_round(self, sums: tuple[Tensor, Tensor, Tensor] | None) -> None:
        """Send the others this round's chunks; add up what belongs to this rank's, if it has one.

        Args:
            sums: p̄, ℓ̄ and the negative entropies of the chunk, zeros; None: no chunk of its own.
        """
        first = self._round * self._chunk_tokens
        self._round += 1
        under_way: _Transfer | None = None
        for number, (to, source, rows) in enumerate(self._transfers()):
            slot = number % 2 if self._overlap else 0
            message = self._message(to, first, rows, slot)
            arriving = None
            if sums is not None and (n := len(range(*rows.indices(len(sums[2]))))) > 0:
                arriving = self._buffer(f"arriving{slot}", n)
            started = self.group.exchange(message, to, arriving, source)
            if under_way is not None:
                self._arrived(under_way, sums)
            under_way = _Transfer(started, arriving, rows)
            if not self._overlap:
                self._arrived(under_way, sums)
                under_way = None
        if sums is not None:
            end = first + len(sums[2])
            sums[2].add_(self._add_up(self._own, first, end, *sums[:2], is_first=False))
        if under_way is not None:
            self._arrived(under_way, sums)

    def _transfers(self) -> Iterator[tuple[int, int, slice]]:
        """Give (rank to send to, rank to receive from, rows of the chunk) of a round, in order."""
        for to, source in self.group.shifts():
            for begin in range(0, self._chunk_tokens, self._transfer_tokens):
                end = min(begin + self._transfer_tokens, self._chunk_tokens)
                yield to, source, slice(begin, end)

    def _message(self, to: int, first: int, rows: slice, slot: int) -> Tensor | None:
        """Return the sums of another rank's tokens; None if it has no such tokens."""
        source = self._sources[to]
        begin, end = first + rows.start, min(first + rows.stop, source.tokens)
        if begin >= end:
            return None
        message = self._buffer(f"message{slot}", end - begin)
        mean_probs, mean_log_probs, negative_entropy = self._views(message)
        added = self._add_up(source, begin, end, mean_probs, mean_log_probs, is_first=True)
        negative_entropy.copy_(added)
        return message

    def _arrived(self, transfer: _Transfer, sums: tuple[Tensor, Tensor, Tensor] | None) -> None:
        transfer.exchange.wait()
        if transfer.arriving is not None and sums is not None:
            for total, part in zip(sums, self._views(transfer.arriving), strict=True):
                total[transfer.rows].add_(part)

    def _add_up(
        self,
        source: MemberSource,
        begin: int,
        end: int,
        mean_probs: Tensor,
        mean_log_probs: Tensor,
        is_first: bool,
    ) -> Tensor:
        M = len(self.members.names)
        return source.add_up_(
            begin, end, self._backend, self._work, M, mean_probs, mean_log_probs, is_first
        )

    def _buffer(self, name: str, n: int) -> Tensor:
        """Return memory for the sums of n tokens."""
        rows = min(self._transfer_tokens, self._work.rows)
        whole = self._work.like(name, torch.Size((rows * (2 * self.V + 1),)), self._dtype)
        return whole[: n * (2 * self.V + 1)]

    def _views(self, buffer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a buffer's Σ p and Σ ln p, (n, V), and Σ_v p ln p, (n)."""
        n = len(buffer) // (2 * self.V + 1)
        size = n * self.V
        probs, log_probs = buffer[:size], buffer[size : 2 * size]
        return probs.view(n, self.V), log_probs.view(n, self.V), buffer[2 * size :]


def sharded_statistics(members: ShardedMembers) -> EnsembleStatistics:
    """Return the statistics of this rank's tokens; every rank of the group must call it.

    Args:
        members: this rank's.

    Returns:
        Statistics of shape (N, V) and (N), of all members.

    Raises:
        InputError: a member gave NaN, on whichever rank it is; it is named.
    """
    dtype = torch.float32
    source = ShardedSource(members, None, dtype)
    device, N, V = source.members.device, source.tokens, source.V
    n = default_chunk_tokens(V, device)
    work = Workspace.of_thread(min(n, source.longest), V, dtype, device)
    source.start(n, select_backend("auto", device, dtype), work)
    mean_probs, mean_log_probs = (torch.empty(N, V, device=device) for _ in range(2))
    negative_entropy = torch.empty(N, device=device)
    for begin in range(0, N, n):
        end = min(begin + n, N)
        for whole, part in zip(
            (mean_probs, mean_log_probs, negative_entropy), source.means(begin, end), strict=True
        ):
            whole[begin:end] = part
    source.finish()
    return statistics_of_means(
        mean_probs,
        mean_log_probs,
        negative_entropy,
        len(members.names),
        members.parts[0].temperature,
    )


def transfer_tokens(V: int, device: torch.device) -> int:
    """Return of how many tokens the sums are sent at a time."""
    elements = _CPU_ELEMENTS if device.type == "cpu" else _GPU_ELEMENTS
    return max(_LEAST_TOKENS, elements // V)
