"""The core against fixed 50-digit values, so that no change of a formula goes unnoticed."""

import json
from typing import Any

import pytest
import torch

from seqdistill.losses import (
    end2_loss,
    mean_kl_loss,
    proxy_dirichlet_forward_loss,
    proxy_dirichlet_loss,
)
from seqdistill.numerics import ExpGamma
from seqdistill.targets import proxy_dirichlet_target
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics
from seqdistill.uncertainty import dirichlet_uncertainty
from tests.golden import make_golden

GOLDEN = json.loads(make_golden.PATH.read_text(encoding="utf-8"))
DTYPES = pytest.mark.parametrize(
    ("dtype", "budget"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["float32", "float64"]
)
STUDENTS = pytest.mark.parametrize(
    "student", GOLDEN["students"], ids=lambda s: f"{s['name']}-{s['offset']:.0f}"
)


def statistics(dtype: torch.dtype) -> EnsembleStatistics:
    members = torch.tensor(GOLDEN["members"], dtype=torch.float64).log()
    return ensemble_statistics(members[:, None].to(dtype))


def assert_near(
    value: torch.Tensor, text: str, budget: float, scale: float = 0.0, what: str = ""
) -> None:
    assert value.item() == pytest.approx(float(text), rel=budget, abs=budget * scale), what


def test_the_file_is_what_its_script_makes() -> None:
    assert make_golden.PATH.read_text(encoding="utf-8") == make_golden.render()


@DTYPES
@pytest.mark.parametrize("row", GOLDEN["gamma"], ids=lambda row: str(row["z"]))
def test_gamma_family(row: dict[str, Any], dtype: torch.dtype, budget: float) -> None:
    gamma = ExpGamma(torch.tensor(row["z"], dtype=dtype))
    for name in ("digamma", "trigamma", "trigamma_gap", "entropy_term", "q"):
        assert_near(getattr(gamma, name), row[name], budget / 10, what=name)


@DTYPES
def test_ensemble(dtype: torch.dtype, budget: float) -> None:
    computed = statistics(dtype)
    for name in make_golden.MEASURES:
        assert_near(getattr(computed, name), GOLDEN["ensemble"][name], budget, what=name)
    for name in ("mkl", "epkl", "exact"):
        inverse = proxy_dirichlet_target(computed, name).inverse_precision
        assert_near(inverse, GOLDEN["ensemble"][f"inverse_precision_{name}"], budget, what=name)


@DTYPES
@STUDENTS
def test_student_uncertainty(student: dict[str, Any], dtype: torch.dtype, budget: float) -> None:
    z = torch.tensor(student["logits"], dtype=dtype)
    computed = dirichlet_uncertainty(z, student["offset"])
    for name in make_golden.MEASURES:
        # Entropies are sums of p ln p near 1; knowledge uncertainty keeps its digits.
        scale = 0.1 if name in ("total_uncertainty", "data_uncertainty") else 0.0
        assert_near(getattr(computed, name), student[name], 2 * budget, scale, name)


@DTYPES
@STUDENTS
def test_losses(student: dict[str, Any], dtype: torch.dtype, budget: float) -> None:
    computed = statistics(dtype)
    target = proxy_dirichlet_target(computed, "mkl")
    offset = student["offset"]

    def proxy(loss: Any, normalisation: str) -> Any:
        return lambda z: loss(z, target, offset=offset, normalisation=normalisation)

    losses = {
        "proxy_dirichlet-proxy": proxy(proxy_dirichlet_loss, "proxy"),
        "proxy_dirichlet-total": proxy(proxy_dirichlet_loss, "total"),
        "proxy_dirichlet_forward-proxy": proxy(proxy_dirichlet_forward_loss, "proxy"),
        "proxy_dirichlet_forward-total": proxy(proxy_dirichlet_forward_loss, "total"),
        "end2": lambda z: end2_loss(z, computed, offset=offset),
        "mean_kl": lambda z: mean_kl_loss(z, computed),
    }
    for name, loss in losses.items():
        z = torch.tensor([student["logits"]], dtype=dtype, requires_grad=True)
        loss_sum, _ = loss(z)
        loss_sum.backward()
        expected = student[name]
        size = max(abs(float(g)) for g in expected["gradient"])
        # A value that grows with e^z cancels parts of the gradient's size.
        assert_near(loss_sum, expected["value"], budget, 1 + 0.1 * size, name)
        for value, right in zip(z.grad[0], expected["gradient"], strict=True):
            assert_near(value, right, budget, size, name)
