"""Ensemble statistics from members that stream past one at a time.

Every measure needs three sums over members (A = Σ p_m, B = Σ ln p_m, both (..., V), and
C = Σ_m Σ_v p_m ln p_m, (...)), so an ensemble of any size costs two vocabulary-sized rows a token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError


@dataclass(frozen=True)
class EnsembleStatistics:
    """What M members say about each token; uncertainties in nats, higher = more uncertain.

    Attributes:
        mean_probs: (..., V) p̄ = mean_m p_m.
        mean_log_probs: (..., V) ℓ̄ = mean_m ln p_m.
        total_uncertainty: (...) TU = H(p̄).
        data_uncertainty: (...) DU = mean_m H(p_m).
        mutual_information: (...) MI = TU − DU.
        epkl: (...) expected pairwise KL over all ordered pairs, −Σ p̄ ℓ̄ − DU.
        reverse_mutual_information: (...) RMI = Σ p̄ (ln p̄ − ℓ̄) = mean_m KL(p̄‖p_m).
        members: M.
        temperature: the temperature at which the members were read.
    """

    mean_probs: Tensor
    mean_log_probs: Tensor
    total_uncertainty: Tensor
    data_uncertainty: Tensor
    mutual_information: Tensor
    epkl: Tensor
    reverse_mutual_information: Tensor
    members: int
    temperature: float = 1.0

    def to(self, device: torch.device | str) -> "EnsembleStatistics":
        """Return the statistics on a device; themselves if they are there already."""
        moved: dict[str, Any] = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


class StatisticsAccumulator:
    """The three sums over members; add members one at a time, then ask for the statistics.

    The sums add: members spread over processes are combined by adding :attr:`sums` and ``count``.

    Args:
        temperature: members are read as softmax(ln p_m / T); 1 leaves them alone.
        token_mask: (...) True where a token counts; NaN elsewhere is not an error.
    """

    def __init__(self, temperature: float = 1.0, token_mask: Tensor | None = None) -> None:
        if not temperature > 0:
            raise InputError(f"expected a temperature above 0, got {temperature}")
        self.temperature = float(temperature)
        self.token_mask = token_mask
        self.count = 0
        #: A = Σ p_m and B = Σ ln p_m, (..., V), and C = Σ_m Σ_v p_m ln p_m, (...).
        self.sums: tuple[Tensor, Tensor, Tensor] | None = None
        self._names: list[str] = []
        self._nan_tokens: list[Tensor] = []

    def add(self, log_probs: Tensor, name: str | None = None) -> None:
        """Add one member.

        Args:
            log_probs: (..., V) ln p_m, any floating dtype; read in float32 at least.
            name: how errors call this member; its number by default.

        Raises:
            InputError: the shape differs from the other members'.
        """
        log_probs = log_probs.detach()
        if log_probs.dtype not in (torch.float32, torch.float64):
            log_probs = log_probs.float()
        if self.temperature != 1.0:
            log_probs = torch.log_softmax(log_probs / self.temperature, dim=-1)
        probs = log_probs.exp()
        # Clamped so that an impossible piece counts 0 · (most negative number) = 0, not 0 · −∞.
        lowest = torch.finfo(log_probs.dtype).min
        negative_entropy = (probs * log_probs.clamp_min(lowest)).sum(dim=-1)
        self._names.append(name if name is not None else f"member {self.count + 1}")
        invalid = negative_entropy.isnan()
        if self.token_mask is not None:
            invalid = invalid & self.token_mask
        # Counted on the device and read once, in statistics(): no synchronisation per member.
        self._nan_tokens.append(invalid.sum())
        if self.sums is None:
            self.sums = probs, log_probs.clone(), negative_entropy
        else:
            if self.sums[0].shape != probs.shape:
                raise InputError(
                    f"{self._names[-1]} has shape {tuple(probs.shape)}, the members before it "
                    f"{tuple(self.sums[0].shape)}; all must share one vocabulary and batch"
                )
            for total, term in zip(self.sums, (probs, log_probs, negative_entropy), strict=True):
                total.add_(term)
        self.count += 1

    def statistics(self, least: int = 2) -> EnsembleStatistics:
        """Return the statistics of the members added so far.

        Args:
            least: members that must be there; 1 where only their mean is of interest.

        Raises:
            InputError: fewer members were added, or one gave NaN (the member is named).
        """
        if self.count < least or self.sums is None:
            raise InputError(
                f"an ensemble needs at least 2 members, got {self.count}; one model has no "
                "disagreement to distil"
            )
        nan_tokens = torch.stack(self._nan_tokens).tolist()
        if any(nan_tokens):
            guilty = ", ".join(
                f"{name} ({count} tokens)"
                for name, count in zip(self._names, nan_tokens, strict=True)
                if count
            )
            raise InputError(
                f"NaN log-probabilities from {guilty}; check that checkpoint, and its dtype "
                "(float16 overflows where bfloat16 and float32 do not)"
            )
        mean_probs, mean_log_probs, negative_entropy = (total / self.count for total in self.sums)
        return statistics_of_means(
            mean_probs, mean_log_probs, negative_entropy, self.count, self.temperature
        )


def statistics_of_means(
    mean_probs: Tensor,
    mean_log_probs: Tensor,
    negative_entropy: Tensor,
    members: int,
    temperature: float = 1.0,
) -> EnsembleStatistics:
    """Return the statistics that the three means over members hold.

    Args:
        mean_probs: (..., V) p̄ = A/M.
        mean_log_probs: (..., V) ℓ̄ = B/M.
        negative_entropy: (...) C/M = mean_m Σ_v p_m ln p_m.
        members: M.
        temperature: at which the members were read.
    """
    data_uncertainty = -negative_entropy
    finfo = torch.finfo(mean_probs.dtype)
    # Where p̄ = 0 the factor p̄ makes the clamped logarithm irrelevant.
    log_mean = mean_probs.clamp_min(finfo.tiny).log()
    total_uncertainty = -(mean_probs * log_mean).sum(dim=-1)
    # Differences first, then the sum: nearly equal members would cancel otherwise.
    gap = log_mean.sub_(mean_log_probs.clamp_min(finfo.min)).mul_(mean_probs)
    rmi = gap.sum(dim=-1).clamp_min(0.0)
    mutual_information = (total_uncertainty - data_uncertainty).clamp_min(0.0)
    return EnsembleStatistics(
        mean_probs=mean_probs,
        mean_log_probs=mean_log_probs,
        total_uncertainty=total_uncertainty,
        data_uncertainty=data_uncertainty,
        mutual_information=mutual_information,
        epkl=mutual_information + rmi,
        reverse_mutual_information=rmi,
        members=members,
        temperature=temperature,
    )


def ensemble_statistics(
    member_log_probs: Iterable[Tensor] | Tensor,
    *,
    temperature: float = 1.0,
    token_mask: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> EnsembleStatistics:
    """Return the statistics of an ensemble, reading its members one after another.

    TU = H(p̄), DU = mean_m H(p_m), MI = TU − DU, RMI = Σ p̄ (ln p̄ − ℓ̄), EPKL = MI + RMI, with
    p̄ = mean_m p_m and ℓ̄ = mean_m ln p_m (Malinin & Gales 2021, sections 2 and 3).

    Args:
        member_log_probs: an iterable of M tensors (..., V) of natural log-probabilities, held one
            at a time, or one tensor (M, ..., V). Any floating dtype; computed in float32 at least.
        temperature: read each member as softmax(ln p_m / T).
        token_mask: (...) True where a token counts; only used to ignore NaN in padding.
        names: what errors call the members; "member 1" … by default.

    Returns:
        An :class:`EnsembleStatistics`; uncertainties in nats, higher = more uncertain.

    Raises:
        InputError: fewer than two members, shapes that differ, or NaN (the member is named).

    Example:
        >>> import torch
        >>> members = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
        >>> s = ensemble_statistics(members)
        >>> s.mean_probs
        tensor([0.7000, 0.3000])
        >>> torch.isclose(s.epkl, s.mutual_information + s.reverse_mutual_information)
        tensor(True)
    """
    accumulator = StatisticsAccumulator(temperature, token_mask)
    for log_probs in member_log_probs:
        if names is not None and accumulator.count >= len(names):
            raise InputError(f"got more members than the {len(names)} names; give each member one")
        accumulator.add(log_probs, names[accumulator.count] if names is not None else None)
        # The loop's variable would keep this member while the iterable makes the next one.
        del log_probs
    return accumulator.statistics()
