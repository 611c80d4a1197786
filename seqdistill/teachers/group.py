"""Ranks that share an ensemble's members: each holds some, and all read one another's batches."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from seqdistill.errors import InputError

Result = TypeVar("Result")

_DTYPES = (
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
)  # fmt: skip
# Of a batch's description: a tensor's dtype, its number of dimensions, and the dimensions.
_MOST_DIMENSIONS = 4
_ALIGNMENT = 16


def world_size() -> int:
    """Return how many ranks the job has; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def together(action: Callable[[], Result]) -> Result:
    """Run on every rank what may fail on one of them; then all of them fail.

    Without it the others would wait for the rank that failed, in the next collective.

    Args:
        action: what to run; it must not communicate.

    Returns:
        The action's result on this rank.

    Raises:
        InputError: the action failed on another rank; the message is that rank's, which it names.
        Exception: it failed on this one.
    """
    if world_size() == 1:
        return action()
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = error
    text = None
    if failure is not None:
        kind = "" if isinstance(failure, InputError) else f"{type(failure).__name__}: "
        text = f"{kind}{failure}"
    texts: list[str | None] = [None] * world_size()
    dist.all_gather_object(texts, text)
    if failure is not None:
        raise failure
    for rank, said in enumerate(texts):
        if said is not None:
            raise InputError(f"rank {rank}: {said}")
    return result  # type: ignore[return-value]


@dataclass
class Exchange:
    """One message to a rank of the group, and one from another, under way.

    Attributes:
        works: torch's handles; none where there was nothing to do.
    """

    works: Sequence[Any] = ()

    def wait(self) -> None:
        """Wait for both; on a GPU only its stream waits."""
        for work in self.works:
            work.wait()


class TeacherGroup:
    """G neighbouring ranks of a job, among which an ensemble's members are spread.

    Messages go in shifts: in shift d every rank sends to the one d behind it and receives from the
    one d before it, so that all links are busy both ways and no rank holds more than two messages.

    Args:
        process_group: of the G ranks, which it orders as they are in the job.
        ranks: their numbers in the job.
        rank: this rank's number in the group, from 0.

    Attributes:
        sent_bytes: what this rank has sent to others so far, headers apart.
    """

    def __init__(self, process_group: Any, ranks: Sequence[int], rank: int) -> None:
        self.ranks = tuple(ranks)
        self.size = len(self.ranks)
        self.rank = rank
        self.sent_bytes = 0
        self._process_group = process_group

    @classmethod
    def create(cls, size: int) -> "TeacherGroup":
        """Split the ranks of the job into groups of neighbours; every rank must call it.

        Args:
            size: G, which must divide the number of ranks.

        Raises:
            InputError: it does not.
        """
        world, own = world_size(), dist.get_rank()
        if size < 1 or world % size:
            raise InputError(
                f"expected a teacher group whose size divides the {world} ranks, got {size}"
            )
        mine = None
        for first in range(0, world, size):
            ranks = range(first, first + size)
            group = dist.new_group(list(ranks))
            if own in ranks:
                mine = cls(group, ranks, own - first)
        assert mine is not None  # the ranges cover every rank
        return mine

    def exchange(
        self, message: Tensor | None, to: int, arriving: Tensor | None, source: int
    ) -> Exchange:
        """Send to one rank of the group and receive from another, without waiting.

        Args:
            message: what is sent; it must not change before the exchange has ended. None: nothing.
            to: the rank that receives it, counted in the group.
            arriving: where what is received goes. None: nothing is received.
            source: the rank that it comes from.
        """
        operations = []
        if message is not None:
            self.sent_bytes += message.numel() * message.element_size()
            operations.append(self._operation(dist.isend, message, to))
        if arriving is not None:
            operations.append(self._operation(dist.irecv, arriving, source))
        return Exchange(dist.batch_isend_irecv(operations) if operations else ())

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what every rank of the group gave, in the order of the ranks.

        Args:
            tensors: the same names on all ranks, of any shapes up to four dimensions; on the device
                of the job's communication.

        Raises:
            InputError: ranks gave different names, or a tensor that cannot be sent.
        """
        names = sorted(tensors)
        given = [tensors[name].detach().contiguous() for name in names]
        device = given[0].device
        header = torch.tensor(_describe(names, given), device=device)
        headers = [torch.empty_like(header) for _ in self.ranks]
        dist.all_gather(headers, header, group=self._process_group)
        described = [_Layout(names, one.tolist()) for one in headers]
        packed = [torch.zeros(one.size, dtype=torch.uint8, device=device) for one in described]
        for tensor, (begin, end) in zip(given, described[self.rank].places, strict=True):
            packed[self.rank][begin:end] = tensor.reshape(-1).view(torch.uint8)
        under_way = [
            self.exchange(packed[self.rank], to, packed[source], source)
            for to, source in self.shifts()
        ]
        for one in under_way:
            one.wait()
        return [layout.unpack(flat) for layout, flat in zip(described, packed, strict=True)]

    def shifts(self) -> list[tuple[int, int]]:
        """Return (the rank to send to, the rank to receive from) of each of the G − 1 shifts."""
        return [
            ((self.rank + d) % self.size, (self.rank - d) % self.size) for d in range(1, self.size)
        ]

    def sum_over_job(self, counts: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks of the job, those of other groups included."""
        total = counts.clone()
        dist.all_reduce(total)
        return total

    def _operation(self, kind: Any, tensor: Tensor, rank: int) -> dist.P2POp:
        return dist.P2POp(kind, tensor, self.ranks[rank], self._process_group)


class _Layout:
    """Where a batch's tensors lie in one row of bytes."""

    def __init__(self, names: Sequence[str], header: Sequence[int]) -> None:
        self._names = names
        if header[0] != _fingerprint(names):
            raise InputError(
                f"this rank's batch has {', '.join(names)}, another's of its teacher group has "
                "others; all ranks must train the same task"
            )
        self.places: list[tuple[int, int]] = []
        self._kinds: list[tuple[torch.dtype, list[int]]] = []
        self.size = 0
        width = 2 + _MOST_DIMENSIONS
        for n in range(len(names)):
            dtype, dimensions, *sizes = header[1 + n * width : 1 + (n + 1) * width]
            shape = sizes[:dimensions]
            length = torch.Size(shape).numel() * _DTYPES[dtype].itemsize
            self.places.append((self.size, self.size + length))
            self._kinds.append((_DTYPES[dtype], shape))
            self.size += -(-length // _ALIGNMENT) * _ALIGNMENT

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of the bytes."""
        return {
            name: flat[begin:end].view(dtype).view(shape)
            for name, (begin, end), (dtype, shape) in zip(
                self._names, self.places, self._kinds, strict=True
            )
        }


def _describe(names: Sequence[str], tensors: Sequence[Tensor]) -> list[int]:
    header = [_fingerprint(names)]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype not in _DTYPES or tensor.dim() > _MOST_DIMENSIONS:
            raise InputError(
                f"{name}: a {tensor.dtype} tensor of {tensor.dim()} dimensions cannot be sent to "
                "the other ranks of a teacher group"
            )
        rest = [0] * (_MOST_DIMENSIONS - tensor.dim())
        header += [_DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape, *rest]
    return header


def _fingerprint(names: Sequence[str]) -> int:
    return zlib.crc32("\n".join(names).encode())
