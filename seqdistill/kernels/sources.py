"""Where the targets of the fused loss come from, a chunk of tokens at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.backend import RowBackend
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.workspace import Workspace
from seqdistill.targets import ProxyDirichletTarget
from seqdistill.targets.proxy import inverse_precision_by_rmi
from seqdistill.targets.sparse import SparseTarget
from seqdistill.teachers import EnsembleStatistics


@dataclass(frozen=True)
class ChunkTarget:
    """The targets of n tokens; what a loss does not need may be None."""

    mean_probs: Tensor | None = None
    mean_log_probs: Tensor | None = None
    inverse_precision: Tensor | None = None
    total_uncertainty: Tensor | None = None
    mutual_information: Tensor | None = None
    epkl: Tensor | None = None
    reverse_mutual_information: Tensor | None = None


class TargetSource(Protocol):
    """Targets of N tokens over V pieces; gives those of a chunk when asked."""

    tokens: int
    V: int

    def chunk(
        self, begin: int, end: int, loss: DistillationLoss, backend: RowBackend, work: Workspace
    ) -> ChunkTarget:
        """Return the targets of the tokens from ``begin`` to ``end``."""
        ...

    def finish(self) -> None:
        """Raise what was found out on the way, after the last chunk."""
        ...


@dataclass(frozen=True)
class MemberProjections:
    """M members that give their features: nothing of a member's (N, V) is ever held.

    Attributes:
        features: M tensors (N, D_m), the decoder's output before its projection.
        weights: M tensors (V, D_m). Where products are in bfloat16, frozen members are best held
            in it: other weights are cast a member at a time, for every chunk of tokens.
        biases: M tensors (V), or None for those without.
        temperature: members are read as softmax(logits/T).
        names: what errors call them.

    Raises:
        InputError: no members, or shapes that do not fit.
    """

    features: Sequence[Tensor]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None] | None = None
    temperature: float = 1.0
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check_members(len(self.features), self.temperature)
        if len(self.weights) != len(self.features):
            raise InputError(
                f"got features of {len(self.features)} members, but {len(self.weights)} projections"
            )
        tokens, V = self.features[0].shape[:-1], self.weights[0].shape[0]
        for m, (features, weight) in enumerate(zip(self.features, self.weights, strict=True)):
            name = member_name(self.names, m)
            if features.shape[:-1] != tokens or weight.shape[0] != V:
                raise InputError(
                    f"{name} has features {tuple(features.shape)} and a projection "
                    f"{tuple(weight.shape)}, the first member {tuple(self.features[0].shape)} and "
                    f"{tuple(self.weights[0].shape)}; all must share tokens and vocabulary"
                )
            if features.shape[-1] != weight.shape[-1]:
                raise InputError(
                    f"{name}: features are {features.shape[-1]} wide, its projection takes "
                    f"{weight.shape[-1]}; give the features of the same model's decoder"
                )


@dataclass(frozen=True)
class MemberLogits:
    """M members' logits or log-probabilities, all at hand.

    Attributes:
        logits: M tensors (N, V), or one (M, N, V).
        temperature: members are read as softmax(logits/T).
        names: what errors call them.

    Raises:
        InputError: no members, or shapes that differ.
    """

    logits: Sequence[Tensor] | Tensor
    temperature: float = 1.0
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check_members(len(self.logits), self.temperature)
        for m in range(1, len(self.logits)):
            if self.logits[m].shape != self.logits[0].shape:
                raise InputError(
                    f"{member_name(self.names, m)} has shape {tuple(self.logits[m].shape)}, the "
                    f"members before it {tuple(self.logits[0].shape)}; all must share one "
                    "vocabulary and batch"
                )


#: What a target may be.
Target = (
    MemberProjections
    | MemberLogits
    | EnsembleStatistics
    | ProxyDirichletTarget
    | SparseTarget
    | Tensor
)


class MemberSource:
    """Streams members through the backend: two rows of the vocabulary a token of one chunk."""

    def __init__(
        self, members: MemberProjections | MemberLogits, index: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.members = members
        self._nan_tokens: list[Tensor] = []
        self._by_features = isinstance(members, MemberProjections)
        given = members.features if isinstance(members, MemberProjections) else members.logits
        self.M = len(given)
        self._rows = [_select(given[m], index) for m in range(self.M)]
        self._weights: list[Tensor] = []
        self._biases: list[Tensor | None] = [None] * self.M
        self.V = self._rows[0].shape[-1]
        if isinstance(members, MemberProjections):
            biases = members.biases or [None] * self.M
            for m, (weight, bias) in enumerate(zip(members.weights, biases, strict=True)):
                own = _member_dtype(weight.dtype, dtype)
                self._rows[m] = self._rows[m].to(own)
                self._weights.append(weight.detach())
                self._biases[m] = None if bias is None else bias.detach().to(own)
            self.V = self._weights[0].shape[0]
        self.tokens = self._rows[0].shape[0]

    def chunk(
        self, begin: int, end: int, loss: DistillationLoss, backend: RowBackend, work: Workspace
    ) -> ChunkTarget:
        """Return the statistics of a chunk."""
        n = end - begin
        sums_dtype = torch.promote_types(work.dtype, torch.float32)
        mean_probs = work.get("mean_probs", n, sums_dtype)
        mean_log_probs = work.get("mean_log_probs", n, sums_dtype)
        negative_entropies = mean_probs.new_empty(self.M, n)
        for first, logits in self._logits(begin, end, work):
            backend.add_members_(
                logits,
                1 / self.members.temperature,
                1 / self.M,
                mean_probs,
                mean_log_probs,
                negative_entropies[first : first + len(logits)],
                is_first=first == 0,
            )
        # Counted on the device and read once, in finish(): no synchronisation per member.
        self._nan_tokens.append(negative_entropies.isnan().sum(1))
        negative_entropy = negative_entropies.sum(0)
        total, rmi = backend.ensemble_rows(mean_probs, mean_log_probs, negative_entropy)
        mutual_information = (total + negative_entropy).clamp_min_(0.0)
        epkl = mutual_information + rmi
        inverse_precision = _inverse_precision(loss, self.V, rmi, epkl, mean_probs)
        return ChunkTarget(
            mean_probs, mean_log_probs, inverse_precision, total, mutual_information, epkl, rmi
        )

    def _logits(
        self, begin: int, end: int, work: Workspace
    ) -> Iterator[tuple[int, Sequence[Tensor]]]:
        """Give (first member, logits of members) until there are no more.

        All at once where they are at hand: a row of the sums then stays in the cache. By features
        one after another, in the same memory: two at a time were no faster.
        """
        n = end - begin
        if not self._by_features and self._rows[0].dtype != torch.float16:
            yield 0, [rows[begin:end] for rows in self._rows]
            return
        for m in range(self.M):
            logits = self._rows[m][begin:end]
            if self._by_features:
                weight = work.cast("weight", self._weights[m], logits.dtype)
                buffer = work.get("logits", n, logits.dtype)
                logits = project(logits, weight, self._biases[m], buffer)
            if logits.dtype == torch.float16:  # backends take float32, bfloat16 and float64
                logits = work.get("rows", n, torch.float32).copy_(logits)
            yield m, [logits]

    def finish(self) -> None:
        """Raise an :class:`InputError` if a member gave NaN; the first of them is named."""
        counts = torch.stack(self._nan_tokens).sum(0).tolist() if self._nan_tokens else []
        for m, count in enumerate(counts):
            if count:
                name = member_name(self.members.names, m)
                raise InputError(
                    f"NaN log-probabilities from {name} ({count} tokens); check that checkpoint, "
                    "and its dtype (float16 overflows where bfloat16 and float32 do not)"
                )


class DenseSource:
    """Statistics or a proxy that are at hand for all tokens."""

    def __init__(
        self, target: EnsembleStatistics | ProxyDirichletTarget, index: Tensor | None
    ) -> None:
        self.target = target
        self.mean_probs = _select(target.mean_probs, index)
        self.tokens, self.V = self.mean_probs.shape
        self.mean_log_probs: Tensor | None = None
        self._by_name: dict[str, Tensor] = {}
        self._inverse_precision: Tensor | None = None
        if isinstance(target, ProxyDirichletTarget):
            self._inverse_precision = _select(target.inverse_precision, index, 0)
            return
        self.mean_log_probs = _select(target.mean_log_probs, index)
        for name in _MEASURES:
            self._by_name[name] = _select(getattr(target, name), index, 0)

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
        inverse_precision = _inverse_precision(
            loss, self.V, measures["reverse_mutual_information"], measures["epkl"], mean_probs
        )
        return ChunkTarget(mean_probs, mean_log_probs, inverse_precision, **measures)

    def finish(self) -> None:
        """Nothing was found out."""


class SparseSource:
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
        inverse_precision = None
        if loss.is_proxy:
            inverse_precision = cut.inverse_precision(loss.concentration).to(dtype)
        return ChunkTarget(mean_probs, None, inverse_precision, **measures)

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
    raise InputError(
        "expected members (MemberProjections, MemberLogits or a tensor (M, ..., V)), "
        f"EnsembleStatistics, a ProxyDirichletTarget or a SparseTarget, got {type(target).__name__}"
    )


def project(features: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """Return features · weightᵀ + bias in ``out``."""
    torch.mm(features, weight.t(), out=out)
    return out if bias is None else out.add_(bias)


def member_name(names: Sequence[str] | None, m: int) -> str:
    """Return what an error calls member ``m`` (from 0)."""
    return names[m] if names is not None else f"member {m + 1}"


def _inverse_precision(
    loss: DistillationLoss, V: int, rmi: Tensor, epkl: Tensor, mean_probs: Tensor
) -> Tensor | None:
    if not loss.is_proxy:
        return None
    if loss.concentration == "mkl":
        return 2 * rmi / (V - 1)
    if loss.concentration == "epkl":
        return epkl / (V - 1)
    return inverse_precision_by_rmi(mean_probs, rmi)


def _check_members(M: int, temperature: float) -> None:
    if M < 1:
        raise InputError("expected at least one member, got none")
    if not temperature > 0:
        raise InputError(f"expected a temperature above 0, got {temperature}")


def _select(values: Tensor, index: Tensor | None, width: int = 1) -> Tensor:
    """Flatten the leading dimensions and keep the tokens that count."""
    values = values.detach()
    flat = values.reshape(-1, values.shape[-1]) if width else values.reshape(-1)
    return flat if index is None else flat[index]


def _member_dtype(own: torch.dtype, products: torch.dtype) -> torch.dtype:
    """Members in half precision stay there; others follow the student's products."""
    return own if own in (torch.float16, torch.bfloat16) else products
