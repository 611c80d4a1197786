"""The Proxy-Dirichlet's precision in its three forms."""

import math

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.targets import proxy_dirichlet_target
from seqdistill.targets.proxy import CONCENTRATIONS
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics
from tests.reference import dirichlets, proxies
from tests.reference.arithmetic import exp, number, numbers


def teachers(V: int, scale: float, top: float = 0.0, M: int = 4, N: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(V)
    logits = torch.randn(M, N, V, generator=generator, dtype=torch.float64) * scale
    logits[..., 0] += top
    return torch.log_softmax(logits, dim=-1)


# (scale of the members' logits, lead of the first piece): RMI from 1e-4 to 50 nats.
TEACHERS = {"flat": (0.02, 0.0), "usual": (1.0, 4.0), "peaked": (1.0, 14.0), "apart": (12.0, 0.0)}


def with_rmi(mean_probs: torch.Tensor, rmi: torch.Tensor) -> EnsembleStatistics:
    zero = torch.zeros_like(rmi)
    return EnsembleStatistics(mean_probs, mean_probs.log(), zero, zero, zero, 2 * rmi, rmi, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("V", [2, 7])
def test_precision_agrees_with_reference(V: int, kind: str, dtype: torch.dtype) -> None:
    statistics = ensemble_statistics(teachers(V, *TEACHERS[kind]).to(dtype))
    rmi, epkl = statistics.reverse_mutual_information[0], statistics.epkl[0]
    expected = {
        "mkl": proxies.mkl_inverse_precision(rmi, V),
        "epkl": proxies.epkl_inverse_precision(epkl, V),
        "exact": proxies.exact_inverse_precision(statistics.mean_probs[0], rmi),
    }
    assert expected.keys() == set(CONCENTRATIONS)
    budget = 1e-5 if dtype == torch.float32 else 1e-9
    for name, inverse in expected.items():
        target = proxy_dirichlet_target(statistics, name)
        assert target.concentration == name
        assert target.inverse_precision.dtype == dtype
        assert target.inverse_precision.shape == (1,)
        assert abs(number(target.inverse_precision[0]) / inverse - 1) < budget, name
        assert target.precision[0].item() == pytest.approx(float(1 / inverse), rel=budget)
        assert target.mean_probs is statistics.mean_probs


@pytest.mark.parametrize("rmi", [1e-7, 1e-3, 0.03, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("V", [2, 9, 60])
@pytest.mark.parametrize("kind", ["flat", "one_hot", "zipf", "holes"])
def test_exact_precision_has_the_ensembles_rmi(kind: str, V: int, rmi: float) -> None:
    weights = torch.arange(1, V + 1, dtype=torch.float64).reciprocal()
    mean_probs = {
        "flat": torch.ones_like(weights),
        "one_hot": torch.where(weights == 1, 1.0, 1e-9),
        "zipf": weights**2,
        "holes": torch.where(torch.arange(V) % 2 == 0, weights, 0.0),
    }[kind]
    mean_probs = mean_probs / mean_probs.sum()
    for dtype, budget in ((torch.float32, 1e-5), (torch.float64, 1e-7)):
        p = mean_probs.to(dtype)[None]
        target = proxy_dirichlet_target(with_rmi(p, torch.tensor([rmi], dtype=dtype)), "exact")
        reached = proxies.reverse_mutual_information(p[0], target.inverse_precision[0])
        assert float(reached) == pytest.approx(rmi, rel=budget)


def test_reference_counts_the_limit_where_the_mean_is_zero() -> None:
    # Dir(β̃₀ p̄) with a piece at 1e-60 instead of 0 has the same RMI.
    p, inverse = [0.25, 0.75, 0.0], number(0.5)
    nearly = [*numbers(p[:2]), exp(number(-138))]
    assert abs(
        proxies.reverse_mutual_information(p, inverse)
        - proxies.reverse_mutual_information(nearly, inverse)
    ) < number(1e-50)
    alpha = [q / inverse for q in numbers([0.25, 0.75])]
    assert abs(
        proxies.reverse_mutual_information(p[:2], inverse)
        - dirichlets.reverse_mutual_information(alpha)
    ) < number(1e-50)


def test_exact_precision_at_a_large_vocabulary_lies_in_its_bounds() -> None:
    V = 4001
    statistics = ensemble_statistics(teachers(V, 1.0, 8.0, N=3).float())
    stirling = proxy_dirichlet_target(statistics, "mkl").precision
    exact = proxy_dirichlet_target(statistics, "exact").precision
    # Stirling is low by a factor of 1 to 2; this sparse p̄ is well inside.
    assert (exact > 1.05 * stirling).all()
    assert (exact < 2 * (V - 0.5) / (V - 1) * stirling).all()


def test_epkl_recovers_the_precision_of_members_drawn_from_a_dirichlet() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    alpha = torch.rand(20, generator=generator, dtype=torch.float64) * 5 + 0.5
    draws = torch.distributions.Dirichlet(alpha).sample((20_000,)).log()
    target = proxy_dirichlet_target(ensemble_statistics(draws[:, None]), "epkl")
    assert target.precision.item() == pytest.approx(alpha.sum().item(), rel=0.05)


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_agreeing_members_give_an_infinite_precision(concentration: str) -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]])
    target = proxy_dirichlet_target(with_rmi(p, torch.zeros(1)), concentration)
    assert target.inverse_precision.item() == 0.0
    assert target.precision.item() == math.inf


@pytest.mark.parametrize("concentration", ["MKL", "", "stirling"])
def test_unknown_concentrations_are_refused(concentration: str) -> None:
    statistics = ensemble_statistics(teachers(4, 1.0))
    with pytest.raises(InputError, match="among mkl, epkl, exact"):
        proxy_dirichlet_target(statistics, concentration)
