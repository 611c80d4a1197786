"""Where the targets of the fused loss come from, a chunk of tokens at a time."""

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.backend import RowBackend
from seqdistill.kernels.chunks import ChunkTarget, TargetSource, inverse_precision, select_rows
from seqdistill.kernels.members import MemberLogits, MemberProjections, MemberSource
from seqdistill.kernels.paired import PairedMembers, PairedSource
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.sharded import ShardedMembers, ShardedSource
from seqdistill.kernels.workspace import Workspace
from seqdistill.targets import ProxyDirichletTarget
from seqdistill.targets.sparse import SparseTarget
from seqdistill.teachers import EnsembleStatistics

#: What a target may be.
Target = (
    MemberProjections
    | MemberLogits
    | ShardedMembers
    | PairedMembers
    | EnsembleStatistics
    | ProxyDirichletTarget
    | SparseTarget
    | Tensor
)


class DenseSource(TargetSource):
    """Statistics or a proxy that are at hand for all tokens."""

    def __init__(
        self, target: EnsembleStatistics | ProxyDirichletTarget, index: Tensor | None
    ) -> None:
        self.target = target
        self.mean_probs = select_rows(target.mean_probs, index)
        self.tokens, self.V = self.mean_probs.shape
        self.mean_log_probs: Tensor | None = None
        self._by_name: dict[str, Tensor] = {}
        self._inverse_precision: Tensor | None = None
        if isinstance(target, ProxyDirichletTarget):
            self._inverse_precision = select_rows(target.inverse_precision, index, 0)
            return
        self.mean_log_probs = select_rows(target.mean_log_probs, index)
        for name in _MEASURES:
            self._by_name[name] = select_rows(getattr(target, name), index, 0)

    def chunk(
        self, begin: int, end: int, loss: DistillationLoss, backend: RowBackend, work: Workspace
    ) -> ChunkTarget:
        """Return views of the chunk."""
        measures = {name: value[begin:end] for name, value in self._by_name.items()}
        mean_probs = self.mean_probs[begin:end].to(torch.promote_types(work.dtype, torch.float32))
        if self._inverse_precision is not None:
            if loss.needs_mean_log_probs:
                raise InputError(
                    "end2 needs the members' mean log-probabilities; give their statistics or the "
                    "members, not a proxy target"
                )
            return ChunkTarget(mean_probs, None, self._inverse_precision[begin:end].to(mean_probs))
        log_probs = self.mean_log_probs
        mean_log_probs = None if log_probs is None else log_probs[begin:end].to(mean_probs.dtype)
        precision = inverse_precision(
            loss, self.V, measures["reverse_mutual_information"], measures["epkl"], mean_probs
        )
        return ChunkTarget(mean_probs, mean_log_probs, precision, **measures)

    def finish(self) -> None:
        """Nothing was found out."""


class SparseSource(TargetSource):
    """Targets of a store; the full rows exist for one chunk only."""

    def __init__(self, target: SparseTarget, index: Tensor | None) -> None:
        self.target = target if index is None else target.select(index)
        self.tokens, self.V = len(self.target), self.target.vocabulary_size

    def chunk(
        self, begin: int, end: int, loss: DistillationLoss, backend: RowBackend, work: Workspace
    ) -> ChunkTarget:
        """Write a chunk's rows out."""
        cut = self.target.rows(begin, end)
        n = end - begin
        dtype = torch.promote_types(work.dtype, torch.float32)
        measures = {name: getattr(cut, name).to(dtype) for name in _MEASURES}
        if loss.needs_mean_log_probs:
            return ChunkTarget(
                None, cut.mean_log_probs(work.get("mean_log_probs", n, dtype)), None, **measures
            )
        mean_probs = cut.mean_probs(work.get("mean_probs", n, dtype))
        precision = None
        if loss.is_proxy:
            precision = cut.inverse_precision(loss.concentration).to(dtype)
        return ChunkTarget(mean_probs, None, precision, **measures)

    def finish(self) -> None:
        """Nothing was found out."""


_MEASURES = ("total_uncertainty", "mutual_information", "epkl", "reverse_mutual_information")


def target_source(target: Target, index: Tensor | None, dtype: torch.dtype) -> TargetSource:
    """Return the source of a target.

    Args:
        target: members, statistics, a proxy or a sparse target; a tensor (M, ..., V) of members.
        index: of the tokens that count, in the flattened leading dimensions; None counts all.
        dtype: of the members' products.

    Raises:
        InputError: something else was given.
    """
    if isinstance(target, Tensor):
        target = MemberLogits(target)
    if isinstance(target, (MemberProjections, MemberLogits)):
        return MemberSource(target, index, dtype)
    if isinstance(target, (EnsembleStatistics, ProxyDirichletTarget)):
        return DenseSource(target, index)
    if isinstance(target, SparseTarget):
        return SparseSource(target, index)
    if isinstance(target, ShardedMembers):
        return ShardedSource(target, index, dtype)
    if isinstance(target, PairedMembers):
        return PairedSource(target, index, dtype)
    raise InputError(
        "expected members (MemberProjections, MemberLogits, ShardedMembers, PairedMembers or a "
        "tensor (M, ..., V)), EnsembleStatistics, a ProxyDirichletTarget or a SparseTarget, got "
        f"{type(target).__name__}"
    )
