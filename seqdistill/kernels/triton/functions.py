"""The mathematical pieces that the kernels are made of, for blocks in float32 and rows in float64.

The forms are those of :mod:`seqdistill.numerics.exp_gamma`: bounded factors times polynomials in
t = 1/(1 + e^z) or s = 1 − t, here as functions of ``small`` = e^{−|z|} so that one exponential
serves all. Each function takes blocks (float32) and scalars of a row (float64); the polynomials'
degree follows the dtype.

Triton's own float32 exponential multiplies by log₂e first and so loses a relative 6e-8 · |x|;
CUDA's accurate one (libdevice) does not exist in the interpreter, and what is tested should be what
runs. Hence :func:`exponential`.
"""
# triton ships no types, and what it compiles is not quite Python.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-def,no-untyped-call"
# mypy: disable-error-code="misc,untyped-decorator"

import torch
import triton
import triton.language as tl

from seqdistill.numerics.exp_gamma import polynomials

Q32, R32, C32 = (tl.constexpr(c) for c in polynomials(torch.float32))
Q64, R64, C64 = (tl.constexpr(c) for c in polynomials(torch.float64))
DEGREE_Q32 = tl.constexpr(len(Q32.value) - 1)
DEGREE_Q64 = tl.constexpr(len(Q64.value) - 1)
DEGREE_C32 = tl.constexpr(len(C32.value) - 1)
DEGREE_C64 = tl.constexpr(len(C64.value) - 1)

#: ln 2 = high + low; k · high is exact for every exponent k of a float32.
LN2_HIGH, LN2_LOW = tl.constexpr(0.693359375), tl.constexpr(-2.12194440054690583e-4)
LOG2_E = tl.constexpr(1.4426950408889634)
#: Below it e^x has no normal float32; GPUs flush it to 0 in some instructions and not in others.
LOWEST_EXPONENT = tl.constexpr(-87.33)
HIGHEST_EXPONENT = tl.constexpr(100.0)
#: Stands for −∞ as the start of a running maximum: it has differences.
LOWEST_LOGIT = tl.constexpr(-1e38)
#: The least normal float32: ln of a probability of 0 is finite, and a factor 0 removes it.
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


@triton.jit
def exponential(x):
    """e^x; in float32 to 2 ulp, 0 below the normal numbers and infinite above 88."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    inside = tl.where(x < LOWEST_EXPONENT, LOWEST_EXPONENT, x)
    inside = tl.where(inside > HIGHEST_EXPONENT, HIGHEST_EXPONENT, inside)
    k = tl.floor(inside * LOG2_E + 0.5)
    # |rest| ≤ 0.35, where the fast exponential is accurate; 2^k is exact.
    rest = (inside - k * LN2_HIGH) - k * LN2_LOW
    return tl.where(x < LOWEST_EXPONENT, 0.0, tl.exp(rest) * tl.exp2(k))


@triton.jit
def polynomial(x, COEFFICIENTS: tl.constexpr, DEGREE: tl.constexpr):
    """Horner's rule, lowest power first."""
    value = x * COEFFICIENTS[DEGREE] + COEFFICIENTS[DEGREE - 1]
    for i in tl.static_range(2, DEGREE + 1):
        value = value * x + COEFFICIENTS[DEGREE - i]
    return value


@triton.jit
def q_of(t):
    """q(t) = x (x ψ'(x) − 1) at x = 1/t."""
    if t.dtype == tl.float64:
        return polynomial(t, Q64, DEGREE_Q64)
    return polynomial(t, Q32, DEGREE_Q32)


@triton.jit
def r_of(t):
    """R(t) = x (ln x − ψ(x)) at x = 1/t."""
    if t.dtype == tl.float64:
        return polynomial(t, R64, DEGREE_Q64)
    return polynomial(t, R32, DEGREE_Q32)


@triton.jit
def c_of(s):
    """C, with h(z) = softplus(z)/2 + C."""
    if s.dtype == tl.float64:
        return polynomial(s, C64, DEGREE_C64)
    return polynomial(s, C32, DEGREE_C32)


@triton.jit
def shares(positive, small):
    """T = 1/(1 + e^z), s = 1 − t and ln(1 + e^{−|z|}), from z > 0 and small = e^{−|z|}."""
    total = 1 + small
    large_share = 1 / total
    small_share = small * large_share
    t = tl.where(positive, small_share, large_share)
    s = tl.where(positive, large_share, small_share)
    # What 1 + small rounded away is put back to first order: relative accuracy at small → 0.
    log_correction = tl.log(total) + (small - (total - 1)) * large_share
    return t, s, log_correction


@triton.jit
def exp_gamma(z):
    """t, s, ln(1 + e^{−|z|}) and e^{−|z|} at z."""
    small = exponential(-tl.abs(z))
    t, s, log_correction = shares(z > 0, small)
    return t, s, log_correction, small


@triton.jit
def digamma_rest(t, log_correction):
    """ψ(1 + e^z) − max(z, 0): between −γ and ln 2."""
    return log_correction - t * r_of(t)


@triton.jit
def entropy_term(z_positive, s, log_correction):
    """H = lnΓ(1 + a) − a ψ(1 + a) + a at a = e^z, given max(z, 0)."""
    return 0.5 * (z_positive + log_correction) + c_of(s)


@triton.jit
def log_add_exp(a, b):
    """ln(e^a + e^b) of two finite scalars."""
    _, _, log_correction, _ = exp_gamma(a - b)
    return tl.maximum(a, b) + log_correction


@triton.jit
def row_terms(log_sum, V, OFFSET: tl.constexpr):
    """Terms of α₀ in float64, from y = ln(S + V − 1) with offset 1 and ln S without.

    Returns y, ψ(1 + e^y), h(y), u(y) and g(y).
    """
    y = log_sum
    if OFFSET == 1:
        y = log_add_exp(log_sum, tl.log((V - 1).to(tl.float64)))
    t, s, log_correction, _ = exp_gamma(y)
    y_positive = tl.maximum(y, 0.0)
    digamma = y_positive + digamma_rest(t, log_correction)
    q = q_of(t)
    return y, digamma, entropy_term(y_positive, s, log_correction), s * (1 + t * q), s * (1 - s * q)


@triton.jit
def add_to_softmax(z, largest, total):
    """One block of the running max z and Σ e^{z − max} that each lane keeps; one exponential."""
    step = z - largest
    factor = exponential(-tl.abs(step))
    total = tl.where(step > 0, total * factor + 1, total + factor)
    return tl.where(step > 0, z, largest), total


@triton.jit
def merge_softmax(largest, total):
    """Lanes' maxima and sums → the row's max in float32, its sum in float64."""
    row_largest = tl.max(largest)
    row_total = tl.sum((exponential(largest - row_largest) * total).to(tl.float64))
    return row_largest, row_total
