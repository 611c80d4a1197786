"""A target that keeps each token's likeliest pieces and the shape of the rest.

p̄ of a trained ensemble lives on a few pieces; what remains is a small mass whose shape is nearly
that of the corpus's mean distribution. So a token is its top pieces, one tail mass, and what is
exact of the full p̄: the uncertainties that its proxy's precision is made of.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.targets.proxy import ProxyDirichletTarget
from seqdistill.teachers import EnsembleStatistics


@dataclass(frozen=True)
class SparseTarget:
    """Targets of N tokens, read from a store or made by :mod:`seqdistill.targets.store`.

    p̂_v = ``probs`` at ``pieces``, tail_mass · prior_v / Σ_{u not in pieces} prior_u elsewhere.

    Attributes:
        pieces: (N, K) int64, distinct in a row; shorter rows repeat their first entry.
        probs: (N, K) p̄ of those pieces.
        tail_mass: (N) Σ p̄ over all other pieces.
        prior: (V) the corpus-prior tail vector, positive, sums to 1.
        total_uncertainty: (N) of the full p̄, as are the next three; nats.
        mutual_information: (N).
        epkl: (N).
        reverse_mutual_information: (N).
        exact_inverse_precision: (N) 1/β̃₀ of ``concentration="exact"``, if it was stored.
        log_probs: (N, K) ℓ̄ of the pieces, for EnD²; None if not stored.
        tail_log_shift: (N) ℓ̄_v ≈ log_prior_v + tail_log_shift for every other piece.
        log_prior: (V) the corpus mean of ℓ̄.
        members: M.
        temperature: at which the members were read.
    """

    pieces: Tensor
    probs: Tensor
    tail_mass: Tensor
    prior: Tensor
    total_uncertainty: Tensor
    mutual_information: Tensor
    epkl: Tensor
    reverse_mutual_information: Tensor
    exact_inverse_precision: Tensor | None
    log_probs: Tensor | None
    tail_log_shift: Tensor | None
    log_prior: Tensor | None
    members: int
    temperature: float = 1.0

    @property
    def data_uncertainty(self) -> Tensor:
        """(N) DU = TU − MI."""
        return self.total_uncertainty - self.mutual_information

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.prior.shape[0]

    def __len__(self) -> int:
        return self.pieces.shape[0]

    def to(self, device: torch.device | str) -> "SparseTarget":
        """Return the target on a device."""
        moved: dict[str, Any] = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def rows(self, begin: int, end: int) -> "SparseTarget":
        """Return the tokens from ``begin`` to ``end``; views, nothing is copied."""
        shared = ("prior", "log_prior")
        cut: dict[str, Any] = {
            f.name: value[begin:end]
            for f in fields(self)
            if f.name not in shared and isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **cut)

    def select(self, index: Tensor) -> "SparseTarget":
        """Return the tokens of an index (n)."""
        shared = ("prior", "log_prior")
        cut: dict[str, Any] = {
            f.name: value[index]
            for f in fields(self)
            if f.name not in shared and isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **cut)

    def mean_probs(self, out: Tensor | None = None) -> Tensor:
        """Return p̂, (N, V); into ``out`` if given (memory of a chunk is used again)."""
        taken = self._distinct(self.prior[self.pieces]).sum(-1)
        # Σ of the prior outside the pieces; 0 when they are the whole vocabulary.
        outside = (1 - taken).clamp_min(0)
        scale = torch.where(self.tail_mass > 0, self.tail_mass / outside, self.tail_mass)
        scale = torch.where(outside > 0, scale, torch.zeros_like(scale))
        dense = torch.mul(scale.unsqueeze(-1), self.prior, out=out)
        return dense.scatter_(-1, self.pieces, self.probs.to(dense.dtype))

    def mean_log_probs(self, out: Tensor | None = None) -> Tensor:
        """Return the approximation of ℓ̄, (N, V).

        Raises:
            InputError: the store was not made for EnD².
        """
        if self.log_probs is None or self.tail_log_shift is None or self.log_prior is None:
            raise InputError(
                "end2 needs mean log-probabilities, which this target store does not hold; make "
                "it again with --for-end2"
            )
        dense = torch.add(self.tail_log_shift.unsqueeze(-1), self.log_prior, out=out)
        return dense.scatter_(-1, self.pieces, self.log_probs.to(dense.dtype))

    def inverse_precision(self, concentration: str) -> Tensor:
        """Return 1/β̃₀ of the proxy, (N); exact, not of p̂.

        Raises:
            InputError: an unknown concentration, or ``exact`` and the store does not hold it.
        """
        if concentration == "mkl":
            return 2 * self.reverse_mutual_information / (self.vocabulary_size - 1)
        if concentration == "epkl":
            return self.epkl / (self.vocabulary_size - 1)
        if concentration != "exact":
            raise InputError(
                f"expected a concentration among mkl, epkl, exact, got {concentration!r}"
            )
        if self.exact_inverse_precision is None:
            raise InputError(
                "concentration 'exact' needs the whole p̄, and this target store does not hold its "
                "precision; make it again with --exact-precision, or take mkl or epkl"
            )
        return self.exact_inverse_precision

    def proxy(self, concentration: str) -> ProxyDirichletTarget:
        """Return the proxy of every token, with p̂ (N, V) for its mean."""
        return ProxyDirichletTarget(
            self.mean_probs(), self.inverse_precision(concentration), concentration
        )

    def statistics(self) -> EnsembleStatistics:
        """Return statistics with p̂ and, if the store was made for EnD², its ℓ̄ (else NaN)."""
        mean_probs = self.mean_probs()
        return EnsembleStatistics(
            mean_probs=mean_probs,
            mean_log_probs=(
                torch.full_like(mean_probs, torch.nan)
                if self.log_probs is None
                else self.mean_log_probs()
            ),
            total_uncertainty=self.total_uncertainty,
            data_uncertainty=self.data_uncertainty,
            mutual_information=self.mutual_information,
            epkl=self.epkl,
            reverse_mutual_information=self.reverse_mutual_information,
            members=self.members,
            temperature=self.temperature,
        )

    def _distinct(self, values: Tensor) -> Tensor:
        """Return values (N, K) with the padding entries of each row set to 0."""
        repeated = self.pieces[:, 1:].eq(self.pieces[:, :1])
        kept = values.clone()
        kept[:, 1:].masked_fill_(repeated, 0)
        return kept
