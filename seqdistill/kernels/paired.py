"""A student with a head for each member: tokens of all heads in one walk, each with its member.

The M heads' features (M, N, D) are read as M·N tokens, head after head, and the target of a token
is the distribution of its own head's member. So the fused walk needs no other form: chunks, row
kernels and the projection's gradient (one, not M) are those of the other losses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.backend import RowBackend
from seqdistill.kernels.chunks import ChunkTarget, TargetSource
from seqdistill.kernels.members import MemberLogits, MemberProjections, MemberSource
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.workspace import Workspace


@dataclass(frozen=True)
class PairedMembers:
    """M members that are the targets of a student's M heads.

    Attributes:
        members: read on N counted tokens.
    """

    members: MemberProjections | MemberLogits

    @property
    def device(self) -> torch.device:
        """Where the members are."""
        return self.members.device


class PairedSource(TargetSource):
    """Targets of M·N tokens: those from m N on are of member m.

    Args:
        target: the members.
        index: must be None; heads are computed of counted tokens only.
        dtype: of the members' products.

    Raises:
        InputError: tokens that do not count are still there.
    """

    def __init__(self, target: PairedMembers, index: Tensor | None, dtype: torch.dtype) -> None:
        if index is not None:
            raise InputError(
                "heads with a member each are read on counted tokens only; give their features of "
                "those, without a token mask"
            )
        self._sources = [MemberSource(one, None, dtype) for one in singles(target.members)]
        self._each, self.V = self._sources[0].tokens, self._sources[0].V
        self.tokens = self._each * len(self._sources)

    def chunk(
        self, begin: int, end: int, loss: DistillationLoss, backend: RowBackend, work: Workspace
    ) -> ChunkTarget:
        """Return the members' distributions at a chunk, which may reach over several heads."""
        n = end - begin
        dtype = torch.promote_types(work.dtype, torch.float32)
        probs, log_probs = work.get("mean_probs", n, dtype), work.get("mean_log_probs", n, dtype)
        at = begin
        while at < end:
            m = at // self._each
            to = min(end, (m + 1) * self._each)
            rows = slice(at - begin, to - begin)
            first = m * self._each
            self._sources[m].add_up_(
                at - first, to - first, backend, work, 1, probs[rows], log_probs[rows], True
            )
            at = to
        return ChunkTarget(probs, log_probs)

    def finish(self) -> None:
        """Raise an :class:`InputError` if a member gave NaN; it is named."""
        for source in self._sources:
            source.finish()


def singles(
    members: MemberProjections | MemberLogits,
) -> list[MemberProjections | MemberLogits]:
    """Return each of the members as an ensemble of one."""
    if isinstance(members, MemberLogits):
        return [
            MemberLogits([logits], members.temperature, _name(members, m))
            for m, logits in enumerate(members.logits)
        ]
    biases = members.biases or [None] * len(members.features)
    parts = zip(members.features, members.weights, biases, strict=True)
    return [
        MemberProjections([x], [weight], [bias], members.temperature, _name(members, m))
        for m, (x, weight, bias) in enumerate(parts)
    ]


def _name(members: MemberProjections | MemberLogits, m: int) -> list[str]:
    return [members.names[m] if members.names is not None else f"member {m + 1}"]
