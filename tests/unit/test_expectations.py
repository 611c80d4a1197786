"""Distilled expectations: their loss, what they mean, and that the identities of measures hold."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqdistill.errors import InputError
from seqdistill.losses import expectations_loss
from seqdistill.student import (
    ExpectationOutputs,
    StudentHead,
    check_expectations,
    expectation_measures,
    expected_values,
    targets_of,
)
from seqdistill.teachers import ensemble_statistics
from seqdistill.uncertainty.estimators import UncertaintyOptions, estimator_for
from seqdistill.uncertainty.heads import Projection, head_rows
from tests.reference import expectations

N, K, D, V = 6, 2, 4, 9
CHOICES = [
    ("data_uncertainty",),
    ("mutual_information",),
    ("mutual_information", "reverse_mutual_information"),
    ("data_uncertainty", "epkl"),
]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inverse_softplus(t: torch.Tensor) -> torch.Tensor:
    return t.expm1().log()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loss_agrees_with_the_reference(dtype: torch.dtype) -> None:
    outputs = torch.tensor([-300.0, -90.0, -37.5, -36.5, -20.0, -3.0, 0.0, 2.0, 60.0], dtype=dtype)
    targets = torch.tensor([0.0, 1e-30, 1e-9, 2e-3, 0.5, 7.0], dtype=dtype)
    grid = torch.cartesian_prod(outputs, targets)
    o, t = grid[:, :1].clone().requires_grad_(), grid[:, 1:]
    loss_sum, count = expectations_loss(o, t)
    (gradient,) = torch.autograd.grad(loss_sum, o)
    budget = 1e-12 if dtype == torch.float64 else 2e-6
    expected = [expectations.divergence(a, b) for a, b in grid.tolist()]
    total = math.fsum(value for value, _ in expected)
    assert float(loss_sum.detach()) == pytest.approx(total, rel=budget)
    assert int(count) == len(expected)
    for got, (_, slope) in zip(gradient[:, 0].tolist(), expected, strict=True):
        assert got == pytest.approx(slope, rel=10 * budget, abs=budget)


def test_written_derivatives() -> None:
    targets = normal(N, K).abs()
    mask = torch.tensor([True, False, True, True, False, True])
    o = (normal(N, K, seed=1) * 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: expectations_loss(x, targets, mask)[0], (o,))
    with torch.no_grad():
        o[1] = math.nan  # padding
    loss_sum, count = expectations_loss(o, targets, mask)
    loss_sum.backward()
    assert int(count) == 4
    assert bool(torch.isfinite(loss_sum))
    assert bool((o.grad[~mask] == 0).all())


@given(st.lists(st.floats(0.0, 5.0), min_size=2, max_size=6), st.floats(-4.0, 4.0))
def test_expectations_minimise_it(samples: list[float], other: float) -> None:
    """Of samples, not of their median: what a student of single samples needs."""
    mean = math.fsum(samples) / len(samples)
    targets = torch.tensor(samples, dtype=torch.float64)[:, None]

    def loss(output: torch.Tensor) -> float:
        return float(expectations_loss(output.expand(len(samples), 1), targets)[0])

    best = inverse_softplus(torch.tensor(max(mean, 1e-12), dtype=torch.float64))
    assert loss(best) <= loss(torch.tensor(other, dtype=torch.float64)) + 1e-9
    if len(set(samples)) == 1 and mean > 1e-6:
        assert abs(loss(best)) < 1e-12


@given(
    st.sampled_from(CHOICES),
    st.lists(st.floats(0.0, 20.0), min_size=2, max_size=2),
    st.floats(0.0, 12.0),
)
def test_the_identities_hold_whatever_was_learnt(
    names: tuple[str, ...], values: list[float], total: float
) -> None:
    given_values = torch.tensor(values[: len(names)], dtype=torch.float64)
    found = expectation_measures(names, given_values, torch.tensor(total, dtype=torch.float64))
    tu, du = found["total_uncertainty"], found["data_uncertainty"]
    mi = found["mutual_information"]
    assert float(tu) == total
    assert float(du + mi) == pytest.approx(total, abs=1e-12)
    assert min(map(float, found.values())) >= 0
    if len(names) == 2:
        assert float(found["epkl"]) == pytest.approx(
            float(mi + found["reverse_mutual_information"]), abs=1e-12
        )
    else:
        assert "epkl" not in found


@pytest.mark.parametrize("names", CHOICES, ids="-".join)
def test_a_student_that_learnt_all_gives_the_ensembles_own_measures(
    names: tuple[str, ...],
) -> None:
    members = torch.log_softmax(normal(3, N, V) * 3, dim=-1)
    ensemble = ensemble_statistics(members)
    head = StudentHead("expectations", settings={"names": names, "rank": 2})
    outputs = inverse_softplus(targets_of(names, ensemble))
    assert abs(float(expectations_loss(outputs, targets_of(names, ensemble))[0])) < 1e-12
    (rows,) = head_rows(
        head,
        ensemble.mean_probs.log(),
        outputs,
        Projection(torch.eye(V, dtype=torch.float64)),
    )
    estimator = estimator_for([head], UncertaintyOptions(("all",)))
    reading = estimator.read([rows])
    torch.testing.assert_close(reading.log_probs.exp(), ensemble.mean_probs)
    known = ["total_uncertainty", "data_uncertainty", "mutual_information"]
    known += ["epkl", "reverse_mutual_information"] if len(names) == 2 else []
    for name in known:
        torch.testing.assert_close(reading.measures[name], getattr(ensemble, name))
    assert ("epkl" in estimator.measures) is (len(names) == 2)
    tokens, at = torch.arange(N), torch.arange(N)
    terms = estimator.token_terms(rows, tokens, at)
    torch.testing.assert_close(terms[0].exp(), ensemble.mean_probs[at, tokens])
    of_sequence = estimator.sequence_measures(reading.measures, terms)
    assert set(of_sequence) == set(estimator.measures)
    mean = reading.measures["mutual_information"].mean()
    torch.testing.assert_close(of_sequence["mutual_information"], mean)


def test_outputs_begin_alike_everywhere_and_leave_the_logits_alone() -> None:
    torch.manual_seed(0)
    outputs = ExpectationOutputs(D, ("mutual_information",), rank=3)
    values = expected_values(outputs(normal(N, D, dtype=torch.float32)))
    torch.testing.assert_close(values, torch.full((N, 1), math.log1p(math.exp(-2))))
    half = expected_values(torch.full((1,), 2.0, dtype=torch.float16))
    assert half.dtype == torch.float32


def test_bad_input_says_what_to_do() -> None:
    for names, message in (
        ((), "got none"),
        (("entropy",), "got entropy"),
        (("data_uncertainty", "mutual_information"), r"TU = DU \+ MI; learn one"),
        (("mutual_information", "epkl", "reverse_mutual_information"), r"EPKL = MI \+ RMI"),
        (("epkl",), "expected data_uncertainty or mutual_information as well"),
    ):
        with pytest.raises(InputError, match=message):
            check_expectations(names)
    settings = {"names": ("mutual_information",), "rank": 2}
    for wrong, message in (
        ({"names": ("mutual_information",)}, "expected settings names, rank, got names"),
        (settings | {"rank": 0}, "a rank of 1 or more"),
        (settings | {"names": ("epkl", "mutual_information")}, "in the order mutual_information"),
    ):
        with pytest.raises(InputError, match=message):
            StudentHead("expectations", settings=wrong)
    head = StudentHead("expectations", settings=settings)
    with pytest.raises(InputError, match="epkl: this student learnt mutual_information, from"):
        estimator_for([head], UncertaintyOptions(("epkl",)))
    with pytest.raises(InputError, match="no members to combine"):
        estimator_for([head], UncertaintyOptions(combination="ep"))
    with pytest.raises(InputError, match="2 students of expectations cannot decode together"):
        estimator_for([head, head])
    with pytest.raises(InputError, match="a target for each output"):
        expectations_loss(normal(3, 2), normal(3, 1))
    with pytest.raises(InputError, match="a student of expectations, got KeptRows"):
        estimator_for([head]).read([normal(3, V)])
    rows = head_rows(head, normal(3, D), normal(3, 1) * math.nan, Projection(normal(V, D)))
    with pytest.raises(InputError, match="NaN or infinite outputs"):
        estimator_for([head]).read(rows)
