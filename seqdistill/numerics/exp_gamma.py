"""Digamma, trigamma and log-gamma of ``1 + e^z``, computed from the logit z itself.

A Dirichlet student has concentrations α = e^z + o. Its losses and uncertainties need ψ(α), ψ'(α)
and lnΓ(α), and written naively they fail twice: e^z leaves the range in which the library
functions are accurate, and terms of size x ln x cancel. Here every quantity is a bounded factor
times a smooth function of t = 1/(1 + e^z) ∈ (0, 1], and that function is one polynomial:

    q(t) = x (x ψ'(x) − 1),  x = 1/t ≥ 1,  q(0) = 1/2

With a = e^z, s = 1 − t = sigmoid(z):

    a ψ'(1+a)                      = s (1 + t q(t))                        ("u", in (0, 1))
    a (1 − u)                      = s (1 − s q(t))                        ("g", in (0, 1))
    ψ(1+a)                         = softplus(z) − t R(t),   R = ∫ q / t
    lnΓ(1+a) − a ψ(1+a) + a  =: h  = softplus(z)/2 + C(t),   C' = ((1 − t) q − 1/2)/t,  C(1) = 0

R and C are exact integrals of the fitted q, so derivatives computed with u and g are the exact
derivatives of values computed with ψ and h. The offset o = 0 follows from the recurrences
ψ(a) = ψ(1+a) − 1/a and lnΓ(a) = lnΓ(1+a) − z.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from seqdistill.numerics.polynomial import horner

# Minimax fits of q on [0, 1], lowest power first; relative errors 1.3e-8 and 4.7e-11. The first
# coefficient is exactly q(0) = 1/2, which C' needs to stay finite at t = 0. A test holds them
# against 50-digit arithmetic.
_Q_FLOAT32 = (
    0.5, 0.16666667202710911, -1.228678951049812e-05, -0.033030586028445552,
    -0.0028831489730075082, 0.037908254606034066, -0.038100417178209653, 0.017796833556577574,
    -0.0034112629905377286,
)  # fmt: skip
_Q_FLOAT64 = (
    0.5, 0.16666666413304779, 3.3865163077221639e-07, -0.033345801837689218,
    0.00021448925244170437, 0.021710862608487407, 0.012836642843974311, -0.084434343211811799,
    0.13086613182833934, -0.11523748817558779, 0.062519723786583381, -0.019592959600919179,
    0.0027298066002545054,
)  # fmt: skip


def _integrals(q: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the coefficients of R in powers of t and of C in powers of s = 1 − t."""
    polynomial = np.polynomial.Polynomial
    r = tuple(c / (power + 1) for power, c in enumerate(q))
    numerator = polynomial([1.0, -1.0]) * polynomial(q) - 0.5
    c = polynomial(numerator.coef[1:]).integ()
    # In powers of s the constant term is C(t = 1) = 0: h keeps its relative accuracy as z → −∞.
    in_s = c(polynomial([1.0, -1.0])).coef
    in_s[0] = 0.0
    return r, tuple(in_s.tolist())


_COEFFICIENTS = {
    torch.float32: (_Q_FLOAT32, *_integrals(_Q_FLOAT32)),
    torch.float64: (_Q_FLOAT64, *_integrals(_Q_FLOAT64)),
}


def polynomials(dtype: torch.dtype) -> tuple[tuple[float, ...], ...]:
    """Return the coefficients of q, R (in powers of t) and C (in powers of s), lowest first."""
    return _COEFFICIENTS[dtype]


class ExpGamma:
    """The gamma-family functions of ``1 + e^z`` at a tensor of logits, each computed once.

    Args:
        z: (...) logits, float32 or float64; every finite value is in range.

    Attributes:
        z: the argument.
        t: (...) 1/(1 + e^z).
        s: (...) e^z/(1 + e^z).

    Example:
        >>> import torch
        >>> ExpGamma(torch.zeros(1)).digamma  # ψ(2) = 1 − γ
        tensor([0.4228])
    """

    def __init__(self, z: Tensor) -> None:
        if z.dtype not in _COEFFICIENTS:
            raise TypeError(f"expected float32 or float64 logits, got {z.dtype}")
        self.z = z
        self._q, self._r, self._c = _COEFFICIENTS[z.dtype]
        # e^{−|z|} never overflows. Two more exponentials are cheaper than two torch.where.
        small = z.abs().neg_().exp_()
        large_share = (1 + small).reciprocal_()
        self.t = (-z).clamp_max_(0).exp_().mul_(large_share)
        self.s = z.clamp_max(0).exp_().mul_(large_share)
        self._log_correction = small.log1p_()

    @cached_property
    def softplus(self) -> Tensor:
        """(...) ln(1 + e^z); accurate at both ends, where ``F.softplus`` cuts off at 20."""
        return self.z.clamp_min(0) + self._log_correction

    @cached_property
    def softplus_negative(self) -> Tensor:
        """(...) ln(1 + e^{-z})."""
        return (-self.z).clamp_min(0) + self._log_correction

    @cached_property
    def q(self) -> Tensor:
        """(...) x (x ψ'(x) − 1) at x = 1 + e^z."""
        return horner(self._q, self.t)

    @cached_property
    def r(self) -> Tensor:
        """(...) x (ln x − ψ(x)) at x = 1 + e^z; from γ (z → −∞) to 1/2 (z → ∞)."""
        return horner(self._r, self.t)

    @cached_property
    def trigamma(self) -> Tensor:
        """(...) u = e^z ψ'(1 + e^z) ∈ (0, 1): the derivative of ``digamma`` in z."""
        return self.s * (1 + self.t * self.q)

    @cached_property
    def trigamma_gap(self) -> Tensor:
        """(...) g = e^z (1 − u) ∈ (0, 1): what is left of e^z u beside e^z."""
        return self.s * (1 - self.s * self.q)

    @cached_property
    def digamma(self) -> Tensor:
        """(...) ψ(1 + e^z)."""
        return self.softplus - self.t * self.r

    @cached_property
    def digamma_excess(self) -> Tensor:
        """(...) ψ(1 + e^z) − z, without cancellation for large z."""
        return self.softplus_negative - self.t * self.r

    @cached_property
    def entropy_term(self) -> Tensor:
        """(...) h = lnΓ(1 + a) − a ψ(1 + a) + a at a = e^z; its derivative in z is g."""
        return 0.5 * self.softplus + horner(self._c, self.s)
