"""The gamma family of 1 + e^z and the Dirichlet's terms, against 100-digit arithmetic."""

import math
from fractions import Fraction

import pytest
import torch

from seqdistill.numerics import DirichletTerms, ExpGamma
from seqdistill.numerics.exp_gamma import _COEFFICIENTS
from tests.reference import dirichlets
from tests.reference.arithmetic import (
    concentrations,
    context,
    digamma,
    exp,
    log,
    log_gamma,
    number,
    numbers,
    total,
    trigamma,
)

GRID = torch.linspace(-80, 80, 641, dtype=torch.float64)

# name: (attribute, formula in a = e^z and x = 1 + a)
FORMULAS = {
    "t": lambda a, x: 1 / x,
    "s": lambda a, x: a / x,
    "softplus": lambda a, x: log(x),
    "softplus_negative": lambda a, x: log(x / a),
    "q": lambda a, x: x * (x * trigamma(x) - 1),
    "r": lambda a, x: x * (log(x) - digamma(x)),
    "trigamma": lambda a, x: a * trigamma(x),
    "trigamma_gap": lambda a, x: a * (1 - a * trigamma(x)),
    "digamma": lambda a, x: digamma(x),
    "digamma_excess": lambda a, x: digamma(x) - log(a),
    "entropy_term": lambda a, x: log_gamma(x) - a * digamma(x) + a,
}
# Largest relative error over the grid. float32: four roundings. float64: what degree 12 can do.
BUDGET = {torch.float32: 2.5e-7, torch.float64: 5e-11}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_function_is_exact_over_the_whole_range(name: str, dtype: torch.dtype) -> None:
    z = GRID.to(dtype)
    computed = getattr(ExpGamma(z), name)
    assert computed.dtype == dtype
    for logit, value in zip(numbers(z), computed, strict=True):
        a = exp(logit)
        expected = FORMULAS[name](a, 1 + a)
        # ψ(1 + e^z) crosses 0 at z = −0.77, where only its absolute error can be small.
        scale = max(abs(expected), 0.5) if name == "digamma" else abs(expected)
        assert abs(number(value) - expected) < BUDGET[dtype] * scale, f"{name} at z = {logit}"


# The figures of the comment in exp_gamma.py, at the precision that they are written with.
@pytest.mark.parametrize(
    ("dtype", "stated"), [(torch.float32, 1.35e-8), (torch.float64, 4.75e-11)], ids=str
)
def test_polynomial_fits_q_as_closely_as_stated(dtype: torch.dtype, stated: float) -> None:
    q, _, _ = _COEFFICIENTS[dtype]
    worst = 0.0
    for step in range(1, 1001):
        # Chebyshev points: dense at both ends, where a minimax fit errs most.
        t = (1 - context.cos(context.pi * step / 1000)) / 2
        x = 1 / t
        fitted = context.polyval([context.mpf(c) for c in reversed(q)], t)
        worst = max(worst, float(abs(fitted / (x * (x * trigamma(x) - 1)) - 1)))
    assert stated / 1.1 < worst < stated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_r_and_c_are_the_exact_integrals_of_q(dtype: torch.dtype) -> None:
    q, r, c_in_s = _COEFFICIENTS[dtype]
    assert q[0] == 0.5
    assert c_in_s[0] == 0.0
    for power, (q_i, r_i) in enumerate(zip(q, r, strict=True)):
        assert math.isclose(r_i * (power + 1), q_i, rel_tol=1e-15)
    # dC/ds = −C'(t) = (1/2 − s q(1 − s))/(1 − s), evaluated in exact rationals.
    for s in (Fraction(0), Fraction(1, 7), Fraction(1, 2), Fraction(9, 10)):
        slope = sum(i * Fraction(c) * s ** (i - 1) for i, c in enumerate(c_in_s) if i)
        q_value = sum(Fraction(c) * (1 - s) ** i for i, c in enumerate(q))
        expected = (Fraction(1, 2) - s * q_value) / (1 - s)
        assert abs(float(slope - expected)) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_finite_logit_is_out_of_range(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    z = torch.tensor([-largest, -1e4, -104.0, 89.0, 1e4, largest], dtype=dtype)
    gamma = ExpGamma(z)
    for name in FORMULAS:
        assert torch.isfinite(getattr(gamma, name)).all(), name
    assert (gamma.trigamma >= 0).all()
    assert (gamma.trigamma <= 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64], ids=str)
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="float32 or float64"):
        ExpGamma(torch.zeros(3).to(dtype))


LOGITS = {
    "small": [0.3, -1.0, 2.0, 0.1, -0.7, 1.3, 0.0],
    "wide": [-80.0, -30.0, -3.0, 0.5, 7.0, 45.0, 80.0],
    "low": [-80.0] * 7,
    "high": [80.0] * 7,
    "pair": [80.0, 79.999],
    "one_large": [60.0, -60.0],
}


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("case", LOGITS)
@pytest.mark.parametrize(
    ("dtype", "budget"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str
)
def test_dirichlet_terms(case: str, offset: float, dtype: torch.dtype, budget: float) -> None:
    z = torch.tensor(LOGITS[case], dtype=dtype)
    terms = DirichletTerms(z, offset)
    logits, alpha = numbers(z), concentrations(z, offset)
    S, precision = total(exp(v) for v in logits), total(alpha)
    last = digamma(precision)
    expected = {
        "log_sum": [log(S)],
        "row_z": [log(precision - number(offset))],
        "log_probs": [v - log(S) for v in logits],
        "log_mean": [log(a / precision) for a in alpha],
        "digamma_gap": [
            digamma(1 + exp(v)) - digamma(1 + precision - number(offset)) for v in logits
        ],
        "expected_log": [digamma(a) - last for a in alpha],
        "inverse_precision": [1 / precision],
        "probs": [exp(v) / S for v in logits],
    }
    for name, values in expected.items():
        computed = getattr(terms, name)
        for value, right in zip(computed, values, strict=True):
            # Logs lie on the scale of the logits; a probability may lie below float32's numbers.
            floor = {"inverse_precision": 0, "probs": 1e-37}.get(name, 1)
            error = abs(number(value) - right) / max(abs(right), floor)
            assert error < budget, f"{name}: {value} for {right}"


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("case", LOGITS)
def test_dirichlet_entropy(case: str, offset: float) -> None:
    expected = dirichlets.differential_entropy(concentrations(LOGITS[case], offset))
    for dtype, budget in ((torch.float32, 3e-6), (torch.float64, 3e-10)):
        value = DirichletTerms(torch.tensor(LOGITS[case], dtype=dtype), offset).entropy
        assert abs(number(value) - expected) < budget * max(abs(expected), 1)


def test_a_small_gap_beside_large_logits_keeps_its_digits() -> None:
    z = torch.tensor([80.0, 80.0 - 2.0**-9])
    expected = -math.log1p(math.exp(-(2.0**-9)))
    assert abs(DirichletTerms(z, 1.0).log_probs[0].item() / expected - 1) < 2e-7
