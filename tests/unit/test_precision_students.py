"""Dirichlet students with a precision of their own: what estimators read of them."""

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.student.precision import PrecisionOutputs
from seqdistill.uncertainty.estimators import (
    DirichletEstimator,
    DirichletMixtureEstimator,
    UncertaintyOptions,
    estimator_for,
)
from seqdistill.uncertainty.heads import Projection, head_rows

R, D, V = 7, 4, 11
HEAD = StudentHead("dirichlet_precision", 1.0, settings={"rank": 3})
OPTIONS = UncertaintyOptions(("all",))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs() -> PrecisionOutputs:
    made = PrecisionOutputs(D, rank=3).double()
    torch.nn.init.normal_(made.last.weight, generator=torch.Generator().manual_seed(2))
    return made


@pytest.mark.parametrize("predictive", ["base", "mean"])
@pytest.mark.parametrize("bias", [None, normal(V, seed=3)], ids=["plain", "bias"])
def test_they_are_dirichlets_of_the_shifted_logits(
    predictive: str, bias: torch.Tensor | None
) -> None:
    head = StudentHead("dirichlet_precision", 1.0, predictive, settings={"rank": 3})
    features, weight = normal(R, D), normal(V, D, seed=1)
    shift = outputs()(features).detach()
    assert shift.std() > 0.1
    logits = torch.nn.functional.linear(features, weight, bias)
    estimator = estimator_for([head], OPTIONS)
    rows = head_rows(head, features, shift, Projection(weight, bias))
    found = estimator.read(rows)
    alone = DirichletEstimator(1.0, predictive, OPTIONS)
    expected = alone.read([logits + shift])
    torch.testing.assert_close(found.log_probs, expected.log_probs)
    assert found.measures.keys() == expected.measures.keys()
    for name, values in expected.measures.items():
        torch.testing.assert_close(found.measures[name], values)
    if predictive == "base":
        torch.testing.assert_close(found.log_probs, logits.log_softmax(-1))
    chosen, at = torch.tensor([0, 5, 5]), torch.tensor([6, 2, 0])
    torch.testing.assert_close(
        estimator.token_terms(rows[0], chosen, at), alone.token_terms(logits + shift, chosen, at)
    )


def test_several_are_a_mixture_and_do_not_mix_with_others() -> None:
    estimator = estimator_for([HEAD, HEAD], OPTIONS)
    assert isinstance(estimator, DirichletMixtureEstimator)
    other = StudentHead("dirichlet_precision", 0.0, settings={"rank": 3})
    with pytest.raises(InputError, match="read in different ways"):
        estimator_for([HEAD, other])
    with pytest.raises(InputError, match="models of the kinds dirichlet, dirichlet_precision"):
        estimator_for([HEAD, StudentHead("dirichlet", 1.0)])


@pytest.mark.parametrize(
    ("offset", "settings", "message"),
    [
        (None, {"rank": 3}, "offset of 1 or 0, got None"),
        (1.0, {}, "has the setting rank, got none"),
        (1.0, {"rank": 0}, "rank of 1 or more, got 0"),
        (1.0, {"rank": 3, "more": 1}, "has the setting rank, got more, rank"),
    ],
)
def test_heads_that_make_no_sense(offset: float | None, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StudentHead("dirichlet_precision", offset, settings=settings)


def test_it_begins_as_an_ordinary_dirichlet_student() -> None:
    made = HEAD.outputs(D, V)
    assert made is not None
    assert made(normal(R, D).float()).count_nonzero() == 0
    assert StudentHead.from_dict(HEAD.to_dict()) == HEAD
