"""The terms of a Dirichlet Dir(α), α = e^z + o, that losses and uncertainties are made of.

With a = e^z, S = Σ a and one more logit for the whole row,

    o = 1:  y = ln(α₀ − 1) = ln(S + V − 1)        o = 0:  y = ln α₀ = ln S,

every function of α₀ is the same function of y that the elements use of z, and the terms of size
S ln S cancel on paper:

    o = 1:  H[Dir(α)] = Σ h(z) − h(y) + (V − 1)(1 − ψ(α₀))
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from seqdistill.numerics.exp_gamma import ExpGamma


class DirichletTerms:
    """Terms of Dir(e^z + o), each computed once and only when asked for.

    Args:
        z: (..., V) logits, float32 or float64.
        offset: 1 or 0.

    Attributes:
        row_z: (..., 1) y above.
        row_gap: (..., 1) y − max z.
        share: (..., 1) S e^{−y}: the part of α₀ − 1 (o = 1) that the logits make.
        log_sum: (..., 1) ln S.
    """

    def __init__(self, z: Tensor, offset: float) -> None:
        self.z = z
        # Relative to the largest logit: a gap of 1e-3 beside logits of 80 keeps its digits.
        largest = z.amax(dim=-1, keepdim=True)
        log_sum_gap = torch.logsumexp(z - largest, dim=-1, keepdim=True)
        self._set_rows(z.shape[-1], offset, largest, log_sum_gap)

    @classmethod
    def of_rows(
        cls, V: int, offset: float, largest: Tensor, log_sum_gap: Tensor
    ) -> "DirichletTerms":
        """Return the terms that are one number a row, where the logits are not at hand.

        Args:
            V: vocabulary size.
            offset: 1 or 0.
            largest: (..., 1) max z.
            log_sum_gap: (..., 1) ln S − max z.
        """
        terms = cls.__new__(cls)
        terms._set_rows(V, offset, largest, log_sum_gap)
        return terms

    def _set_rows(self, V: int, offset: float, largest: Tensor, log_sum_gap: Tensor) -> None:
        self.V = V
        self.offset = offset
        self._largest, self._log_sum_gap = largest, log_sum_gap
        # One number a row: float64 costs nothing, and differences of logarithms of size 20 would
        # lose two digits in float32.
        log_sum = largest.double() + log_sum_gap.double()
        row_z = log_sum
        if offset == 1:
            row_z = torch.logaddexp(log_sum, torch.full_like(log_sum, math.log(V - 1)))
        dtype = largest.dtype
        self.log_sum, self.row_z = log_sum.to(dtype), row_z.to(dtype)
        self.row_gap = (row_z - largest.double()).to(dtype)
        self.share = (log_sum - row_z).exp().to(dtype)

    @cached_property
    def elements(self) -> ExpGamma:
        """(..., V) the gamma family at z."""
        return ExpGamma(self.z)

    @cached_property
    def row(self) -> ExpGamma:
        """(..., 1) the gamma family at y."""
        return ExpGamma(self.row_z)

    @cached_property
    def log_probs(self) -> Tensor:
        """(..., V) ln softmax(z): the base distribution."""
        return (self.z - self._largest) - self._log_sum_gap

    @cached_property
    def probs(self) -> Tensor:
        """(..., V) softmax(z)."""
        return self.log_probs.exp()

    @cached_property
    def inverse_precision(self) -> Tensor:
        """(..., 1) 1/α₀."""
        return self.row.t if self.offset == 1 else (-self.row_z).exp()

    @cached_property
    def log_mean(self) -> Tensor:
        """(..., V) ln(α/α₀): the mean distribution."""
        if self.offset == 0:
            return self.log_probs
        log_total_gap = torch.logaddexp(self._log_sum_gap, math.log(self.V) - self._largest)
        return (self.z - self._largest) - log_total_gap + self.elements.softplus_negative

    @cached_property
    def digamma_gap(self) -> Tensor:
        """(..., V) ψ(1 + e^z) − ψ(1 + e^y)."""
        return (
            (self.z - self._largest)
            - self.row_gap
            + (self.elements.digamma_excess - self.row.digamma_excess)
        )

    @cached_property
    def expected_log(self) -> Tensor:
        """(..., V) ψ(α) − ψ(α₀): the expectation of ln π_v under the Dirichlet."""
        if self.offset == 1:
            return self.digamma_gap
        return self.digamma_gap - (-self.z).exp() + (-self.row_z).exp()

    @cached_property
    def entropy(self) -> Tensor:
        """(..., 1) H[Dir(α)], the differential entropy."""
        V, row = self.V, self.row
        if self.offset == 1:
            return (
                self.elements.entropy_term.sum(-1, keepdim=True)
                - row.entropy_term
                + (V - 1) * (1 - row.digamma)
            )
        inside = self.elements.entropy_term + self.elements.digamma_excess - (-self.z).exp()
        outside = V * (row.digamma_excess - (-self.row_z).exp())
        return (
            inside.sum(-1, keepdim=True) - row.entropy_term - outside + (V - 1) * (1 - self.row_z)
        )
