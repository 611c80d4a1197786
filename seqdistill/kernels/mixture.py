"""Sums over members that are read one after another: what a step of decoding wants of an ensemble.

    PE   q = mean_m p_m            EP   q = Σ_m w_m p_m / Σ_m w_m,   w_m = P_m(y_<l) of each row

and of both H(q) and Σ q (ln q − ℓ̄), ℓ̄ = mean_m ln p_m. Three tensors (n, V) at most, whatever M
is: Σ p, Σ ln p and Σ w p. On a CPU the compiled kernels make them in two passes over a member's
logits and one over the sums, where there are any.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.cpp.backend import load
from seqdistill.kernels.cpp.library import Library
from seqdistill.kernels.cpp.mixture import mix_member_, read_mixture_

#: Stands for ln 0 where a member finds a prefix impossible: its weight is 0 beside any other, and
#: if all of them do, they count alike instead of giving NaN.
LOG_OF_IMPOSSIBLE = -1e300

# Rows × vocabulary worked on at once where there are no compiled kernels.
_CPU_ELEMENTS, _GPU_ELEMENTS = 1 << 17, 1 << 26


@dataclass(frozen=True)
class MixtureReading:
    """What a mixture q says at n rows, nats.

    Attributes:
        entropy: (n) H(q).
        reverse_mutual_information: (n) Σ q (ln q − ℓ̄) = mean_m KL(q‖p_m), at least 0.
        largest: (n) max q.
        least: (n) min q; below 1e-30 or so, sums have lost what is left of it.
        log_probs: (n, V) ln q, or None where it was not wanted.
    """

    entropy: Tensor
    reverse_mutual_information: Tensor
    largest: Tensor
    least: Tensor
    log_probs: Tensor | None


class LogWeights:
    """Weights that come as logarithms, one member after another, relative to the largest so far.

    Prefixes of −1000 nats leave no digits otherwise.
    """

    def __init__(self) -> None:
        self._largest: Tensor | None = None
        self._total: Tensor | None = None

    def add(self, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Take a member's (n); return ln of what the sum so far fades by, and ln of its share."""
        log_weights = log_weights.double().clamp_min(LOG_OF_IMPOSSIBLE)
        if self._largest is None or self._total is None:
            self._largest, self._total = log_weights, torch.ones_like(log_weights)
            nothing = torch.zeros_like(log_weights)
            return nothing, nothing
        largest = torch.maximum(self._largest, log_weights)
        fade, share = self._largest - largest, log_weights - largest
        self._largest, self._total = largest, self._total * fade.exp() + share.exp()
        return fade, share

    @property
    def total(self) -> Tensor:
        """(n) Σ w, relative to the largest."""
        if self._total is None:
            raise InputError("expected the weights of at least one member, got none")
        return self._total


class MemberMixture:
    """Adds up members; then reads their mixtures, each once.

    Args:
        is_weighted: members have weights, and EP is wanted beside PE.

    Example:
        >>> import torch
        >>> mixture = MemberMixture()
        >>> for probs in ([0.9, 0.1], [0.5, 0.5]):
        ...     _ = mixture.add_(torch.tensor([probs]).log())
        >>> mixture.read_("pe", wants_log=True).log_probs.exp()
        tensor([[0.7000, 0.3000]])
    """

    def __init__(self, is_weighted: bool = False) -> None:
        self.count = 0
        self._weights = LogWeights() if is_weighted else None
        self._probs: Tensor
        self._log_probs: Tensor
        self._weighted: Tensor | None = None
        self._entropies: list[Tensor] = []

    def add_(
        self, logits: Tensor, log_weights: Tensor | None = None, *, is_free: bool = False
    ) -> Tensor:
        """Add a member.

        Args:
            logits: (n, V) of any floating dtype; any constant of a row may be missing.
            log_weights: (n) ln w up to a constant of the row, where there are weights; None: equal.
            is_free: the logits' memory may be used; else they are not changed.

        Returns:
            (n) ln Σ e^logits, float64; NaN where a row holds NaN, or +∞.

        Raises:
            InputError: the shape differs from the members' before it.
        """
        logits = logits.detach()
        if logits.dtype not in (torch.float32, torch.float64):
            logits, is_free = logits.float(), True
        fade = share = None
        if self._weights is not None:
            if log_weights is None:
                log_weights = logits.new_zeros(logits.shape[0], dtype=torch.float64)
            fade, share = (by.exp() for by in self._weights.add(log_weights))
        is_first = self.count == 0
        if is_first:
            can_hold = is_free and logits.is_contiguous()
            self._probs = logits if can_hold else torch.empty_like(logits.contiguous())
            self._log_probs = torch.empty_like(self._probs)
            if self._weights is not None:
                self._weighted = torch.empty_like(self._probs)
        elif logits.shape != self._probs.shape:
            raise InputError(
                f"member {self.count + 1} has shape {tuple(logits.shape)}, the members before it "
                f"{tuple(self._probs.shape)}; all must share one vocabulary and batch"
            )
        sums = self._probs, self._log_probs, self._weighted
        library = _library(self._probs)
        log_total, entropy = (
            _mix_member_(logits, *sums, fade, share, is_first)
            if library is None
            else mix_member_(library, logits, *sums, fade, share, is_first)
        )
        self.count += 1
        self._entropies.append(entropy)
        return log_total

    @property
    def log_probs(self) -> Tensor:
        """(n, V) Σ ln p, free to be changed when nothing more is read."""
        return self._log_probs

    @property
    def data_uncertainty(self) -> Tensor:
        """(n) mean_m H(p_m)."""
        return torch.stack(self._entropies).mean(dim=0).to(self._probs.dtype)

    def read_(self, combination: str, wants_log: bool) -> MixtureReading:
        """Read a mixture; its sums become its logarithms where those are wanted.

        Args:
            combination: ``pe``, or ``ep`` where members have weights.
            wants_log: ln q is wanted.

        Raises:
            InputError: no member was added, or there are no weights.
        """
        if self.count == 0:
            raise InputError("expected the outputs of at least one member, got none")
        if combination == "pe":
            sums = self._probs
            factor = sums.new_full((sums.shape[0],), 1 / self.count, dtype=torch.float64)
        elif self._weights is None or self._weighted is None:
            raise InputError("expected members with weights for a mixture under EP")
        else:
            sums, factor = self._weighted, self._weights.total.reciprocal()
        library = _library(sums)
        given = sums, self._log_probs, factor, self.count, wants_log
        measures = _read_mixture_(*given) if library is None else read_mixture_(library, *given)
        entropy, rmi, largest, least = measures.to(sums.dtype)
        return MixtureReading(entropy, rmi, largest, least, sums if wants_log else None)


def _library(rows: Tensor) -> Library | None:
    """Return the compiled kernels, or None where plain PyTorch has to do it."""
    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return None
    return load().library


def _mix_member_(
    logits: Tensor,
    probs: Tensor,
    log_probs: Tensor,
    weighted: Tensor | None,
    fade: Tensor | None,
    share: Tensor | None,
    is_first: bool,
) -> tuple[Tensor, Tensor]:
    """Add a member to the sums (n, V); return ln Σ e^z and the entropy, (n) each, float64."""
    lowest = torch.finfo(probs.dtype).min
    log_totals, entropies = [], []
    for rows in _blocks(logits):
        z = logits[rows]
        largest = z.amax(-1, keepdim=True)
        log_total = torch.logsumexp(z - largest, -1, keepdim=True)
        log_p = (z - largest) - log_total
        p = log_p.exp()
        log_totals.append((largest.double() + log_total.double()).squeeze(-1))
        # 0 · −∞ is 0 here: a piece that a member excludes has no entropy.
        entropies.append(-(p * log_p.clamp_min(lowest)).sum(-1).double())
        if weighted is not None and fade is not None and share is not None:
            new = p * share[rows].to(p.dtype).unsqueeze(-1)
            if not is_first:
                new.addcmul_(weighted[rows], fade[rows].to(p.dtype).unsqueeze(-1))
            weighted[rows] = new
        # Last of all: the first member's logits may lie where the sum of probabilities shall be.
        if is_first:
            log_probs[rows], probs[rows] = log_p, p
        else:
            log_probs[rows] += log_p
            probs[rows] += p
    return torch.cat(log_totals), torch.cat(entropies)


def _read_mixture_(
    sums: Tensor, log_probs: Tensor, factor: Tensor, members: int, wants_log: bool
) -> Tensor:
    """Return (4, n) H(q), Σ q (ln q − ℓ̄), max q and min q of q = factor · sums, float64."""
    finfo = torch.finfo(sums.dtype)
    parts = []
    for rows in _blocks(sums):
        q = sums[rows] * factor[rows].to(sums.dtype).unsqueeze(-1)
        log_q = q.clamp_min(finfo.tiny).log_()
        expected = (log_probs[rows] / members).clamp_min_(finfo.min)
        entropy = -(q * log_q).sum(-1)
        # Differences first, then the sum: nearly equal members would cancel otherwise.
        rmi = expected.sub_(log_q).neg_().mul_(q).sum(-1).clamp_(0.0, finfo.max)
        parts.append(torch.stack([entropy, rmi, q.amax(-1), q.amin(-1)]).double())
        if wants_log:
            sums[rows] = log_q.masked_fill_(q == 0, -math.inf)
    return torch.cat(parts, dim=1)


def _blocks(rows: Tensor) -> list[slice]:
    """Return slices of (n, V): their temporaries fit a core's cache, or a GPU's memory."""
    n, V = rows.shape
    size = max(1, (_CPU_ELEMENTS if rows.device.type == "cpu" else _GPU_ELEMENTS) // V)
    return [slice(start, start + size) for start in range(0, n, size)]
