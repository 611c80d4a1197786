"""Synthetic points of the simplex and their likelihood under Concrete distributions."""

import math

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.simplex_mixtures import (
    SMALLEST_LOG_WEIGHT,
    different_targets,
    mixture_log_weights,
    simplex_loss,
)
from seqdistill.numerics.concrete import concrete_log_samples, gumbel_variates
from tests.reference import logit_space as reference


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("concentration", [0.2, 1.0, 5.0])
def test_weights_are_dirichlet(concentration: float) -> None:
    weights = mixture_log_weights(40_000, 4, concentration, seeded()).exp()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(40_000, dtype=torch.float64))
    # Var w = (K − 1)/(K² (Kβ + 1))
    variance = 3 / (16 * (4 * concentration + 1))
    assert weights.var(dim=0).tolist() == pytest.approx([variance] * 4, rel=0.05)
    assert weights.mean(dim=0).tolist() == pytest.approx([0.25] * 4, abs=0.01)


def test_tiny_concentrations_stay_finite() -> None:
    log_weights = mixture_log_weights(1000, 3, 1e-3, seeded())
    assert bool(torch.isfinite(log_weights).all())
    assert float(log_weights.min()) == SMALLEST_LOG_WEIGHT


def test_mixed_positions_have_different_targets() -> None:
    targets = torch.tensor([5, 5, 5, 7, 9, 7])
    drawn = different_targets(targets, 200, 3, seeded())
    assert drawn.shape == (200, 3)
    assert all(set(row) == {5, 7, 9} for row in targets[drawn].tolist())
    assert torch.equal(drawn, different_targets(targets, 200, 3, seeded()))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_loss_is_the_density_of_the_logarithms(temperature: float) -> None:
    weights, locations = [0.2, 0.5, 0.3], [0.4, -1.0, 2.0]
    density = reference.concrete_density(weights, [math.exp(z) for z in locations], temperature)
    of_logs = math.log(density) + sum(math.log(w) for w in weights)  # dx = x d ln x
    given = [torch.tensor([one], dtype=torch.float64) for one in (weights, locations)]
    loss, count = simplex_loss(
        given[0].log(), given[1] + 100.0, torch.tensor([math.log(temperature)])
    )
    assert loss.item() == pytest.approx(-of_logs / 2, rel=1e-6)  # two free entries
    assert int(count) == 1


@pytest.mark.parametrize("temperature", [0.4, 1.5])
def test_least_where_points_were_drawn(temperature: float) -> None:
    locations = torch.randn(4000, 4, generator=seeded(1), dtype=torch.float64)
    points = concrete_log_samples(
        locations, torch.tensor(temperature), gumbel_variates((4000, 4), seeded(2))
    )

    def loss(value: float) -> float:
        return float(simplex_loss(points, locations, torch.full((4000,), math.log(value)))[0])

    assert loss(temperature) < min(loss(0.8 * temperature), loss(1.25 * temperature))


def test_derivatives() -> None:
    log_weights = mixture_log_weights(3, 4, 0.5, seeded(4))
    locations = torch.randn(3, 4, generator=seeded(5), dtype=torch.float64, requires_grad=True)
    log_temperatures = torch.tensor([-1.0, 0.0, 0.7], dtype=torch.float64, requires_grad=True)

    def loss(z: Tensor, t: Tensor) -> Tensor:
        return simplex_loss(log_weights, z, t)[0]

    assert torch.autograd.gradcheck(loss, (locations, log_temperatures))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least 2 positions, got 1"):
        mixture_log_weights(3, 1, 1.0, seeded())
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="concentration above 0"):
            mixture_log_weights(3, 2, wrong, seeded())
    with pytest.raises(InputError, match="at least 3 different reference tokens to mix, got 2"):
        different_targets(torch.tensor([4, 4, 6]), 5, 3, seeded())
    with pytest.raises(InputError, match="one temperature a row"):
        simplex_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3))
