"""Members of an ensemble as targets of the fused loss: by their features, or by their logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.backend import RowBackend
from seqdistill.kernels.chunks import (
    ChunkTarget,
    TargetSource,
    ensemble_target,
    project,
    select_rows,
)
from seqdistill.kernels.settings import DistillationLoss
from seqdistill.kernels.workspace import Workspace
from seqdistill.teachers import EnsembleStatistics, StatisticsAccumulator


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

    @property
    def device(self) -> torch.device:
        """Where the members are."""
        return self.features[0].device


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

    @property
    def device(self) -> torch.device:
        """Where the members are."""
        return self.logits[0].device


def member_log_probs(members: MemberProjections | MemberLogits, m: int) -> Tensor:
    """Return (N, V) ln p_m of one member, at the members' temperature, float32 at least."""
    if isinstance(members, MemberProjections):
        bias = None if members.biases is None else members.biases[m]
        logits = torch.nn.functional.linear(members.features[m], members.weights[m], bias)
    else:
        logits = members.logits[m]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(wide / members.temperature, dim=-1)


@torch.no_grad()
def member_statistics(members: MemberProjections | MemberLogits) -> EnsembleStatistics:
    """Return the statistics of members (N, V), read one after another.

    Raises:
        InputError: fewer than two members, or one gave NaN (it is named).
    """
    accumulator = StatisticsAccumulator()
    count = len(members.features if isinstance(members, MemberProjections) else members.logits)
    for m in range(count):
        accumulator.add(member_log_probs(members, m), member_name(members.names, m))
    return replace(accumulator.statistics(), temperature=members.temperature)


class MemberSource(TargetSource):
    """Streams members through the backend: two rows of the vocabulary a token of one chunk."""

    def __init__(
        self, members: MemberProjections | MemberLogits, index: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.members = members
        self._nan_tokens: list[Tensor] = []
        self._by_features = isinstance(members, MemberProjections)
        given = members.features if isinstance(members, MemberProjections) else members.logits
        self.M = len(given)
        self._rows = [select_rows(given[m], index) for m in range(self.M)]
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
        negative_entropy = self.add_up_(
            begin, end, backend, work, self.M, mean_probs, mean_log_probs, is_first=True
        )
        return ensemble_target(loss, backend, mean_probs, mean_log_probs, negative_entropy)

    def add_up_(
        self,
        begin: int,
        end: int,
        backend: RowBackend,
        work: Workspace,
        M: int,
        mean_probs: Tensor,
        mean_log_probs: Tensor,
        is_first: bool,
    ) -> Tensor:
        """Add the members' share of the means of a chunk.

        Args:
            begin: first token.
            end: behind the last of n tokens.
            backend: of the rows.
            work: of at least n rows.
            M: members of the whole ensemble, of which these may be some.
            mean_probs: (n, V) += Σ p_m / M.
            mean_log_probs: (n, V) += Σ ln p_m / M.
            is_first: the two sums begin here, whatever they hold.

        Returns:
            (n) Σ_m Σ_v p_m ln p_m / M.
        """
        negative_entropies = mean_probs.new_empty(self.M, end - begin)
        for first, logits in self._logits(begin, end, work):
            backend.add_members_(
                logits,
                1 / self.members.temperature,
                1 / M,
                mean_probs,
                mean_log_probs,
                negative_entropies[first : first + len(logits)],
                is_first=is_first and first == 0,
            )
        # Counted on the device and read once, in finish(): no synchronisation per member.
        self._nan_tokens.append(negative_entropies.isnan().sum(1))
        return negative_entropies.sum(0)

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

    def nan_tokens(self) -> Tensor | None:
        """Return (M) how many tokens of each member were NaN so far; None if none was read."""
        return torch.stack(self._nan_tokens).sum(0) if self._nan_tokens else None

    def finish(self) -> None:
        """Raise an :class:`InputError` if a member gave NaN; the first of them is named."""
        counts = self.nan_tokens()
        refuse_nan([] if counts is None else counts.tolist(), self.members.names)


def refuse_nan(counts: Sequence[int], names: Sequence[str] | None) -> None:
    """Raise an :class:`InputError` that names the first member of which a token was NaN.

    Args:
        counts: M, tokens that were NaN.
        names: of the members.
    """
    for m, count in enumerate(counts):
        if count:
            raise InputError(
                f"NaN log-probabilities from {member_name(names, m)} ({count} tokens); check that "
                "checkpoint, and its dtype (float16 overflows where bfloat16 and float32 do not)"
            )


def member_name(names: Sequence[str] | None, m: int) -> str:
    """Return what an error calls member ``m`` (from 0)."""
    return names[m] if names is not None else f"member {m + 1}"


def _check_members(M: int, temperature: float) -> None:
    if M < 1:
        raise InputError("expected at least one member, got none")
    if not temperature > 0:
        raise InputError(f"expected a temperature above 0, got {temperature}")


def _member_dtype(own: torch.dtype, products: torch.dtype) -> torch.dtype:
    """Members in half precision stay there; others follow the student's products."""
    return own if own in (torch.float16, torch.bfloat16) else products
