"""SGLD: the posterior that it samples, its noise, and the cycles."""

import copy
import math

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.teachers.cheap.langevin import Langevin, cycle_at

N = 40.0


def sample_gaussian(
    curvature: Tensor, centre: Tensor, *, updates: int, skip: int, **options: object
) -> Tensor:
    """Sample exp(-N/2 (θ-μ)ᵀA(θ-μ)), 400 chains at once; returns (draws, chains, D)."""
    chains = torch.nn.Parameter(torch.zeros(400, len(centre), dtype=torch.float64))
    optimizer = Langevin([chains], data_size=N, seed=3, **options)
    drawn = []
    for update in range(updates):
        # The mean loss is ½(θ-μ)ᵀA(θ-μ), so this is its gradient, of every chain.
        chains.grad = (chains.detach() - centre) @ curvature
        optimizer.step()
        if update >= skip and update % 20 == 0:
            drawn.append(chains.detach().clone())
    return torch.stack(drawn)


def test_samples_of_a_gaussian_posterior_have_its_mean_and_covariance() -> None:
    # Of (θ, L) one step is affine, so the chain's covariance C is known exactly, also at this step
    # size: C = (I-ηA)C(I-ηA) + 2ηT/N·I, so C = T/N·A⁻¹(I-ηA/2)⁻¹. For η → 0 it is the posterior's.
    curvature = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    centre = torch.tensor([1.0, -2.0], dtype=torch.float64)
    rate = 0.1
    for temperature in (1.0, 0.25):
        drawn = sample_gaussian(
            curvature, centre, updates=1500, skip=200, lr=rate, temperature=temperature
        ).flatten(0, 1)
        identity = torch.eye(2, dtype=torch.float64)
        exact = torch.linalg.inv(curvature @ (identity - rate / 2 * curvature)) * temperature / N
        n = len(drawn) / 2  # draws 20 updates apart are nearly independent
        deviation = (drawn.mean(0) - centre).abs() / (exact.diag() / n).sqrt()
        assert deviation.max() < 4
        torch.testing.assert_close(drawn.T.cov(), exact, rtol=0.05, atol=0.02 * temperature / N)
        # Near the posterior's own covariance, and far from that without the factor 2.
        posterior = torch.linalg.inv(curvature) * temperature / N
        assert ((drawn.T.cov() / posterior).diag() - 1).abs().max() < 0.15


def test_the_prior_is_part_of_the_posterior() -> None:
    # Mean loss ½a(θ-1)², prior precision Nλ: the posterior is N(a/(a+λ), 1/(N(a+λ))).
    a, decay, rate = 1.0, 0.5, 0.05
    drawn = sample_gaussian(
        torch.tensor([[a]], dtype=torch.float64), torch.ones(1, dtype=torch.float64),
        updates=1500, skip=300, lr=rate, weight_decay=decay,
    )  # fmt: skip
    exact = 1 / (N * (a + decay) * (1 - rate * (a + decay) / 2))
    assert drawn.mean().item() == pytest.approx(a / (a + decay), abs=0.01)
    assert drawn.var().item() == pytest.approx(exact, rel=0.05)


def test_the_preconditioned_chain_samples_the_same_posterior() -> None:
    # G is a chain's own mean square, which at alpha near 1 hardly moves: G is constant in effect.
    curvature = torch.diag(torch.tensor([3.0, 0.2], dtype=torch.float64))
    centre = torch.tensor([0.5, 0.0], dtype=torch.float64)
    drawn = sample_gaussian(
        curvature, centre, updates=6000, skip=2500, lr=0.01, preconditioner="rmsprop",
        alpha=0.999, eps=0.05,
    ).flatten(0, 1)  # fmt: skip
    posterior = torch.linalg.inv(curvature) / N
    torch.testing.assert_close(drawn.mean(0), centre, rtol=0, atol=0.01)
    assert ((drawn.T.cov() / posterior).diag() - 1).abs().max() < 0.12


def test_one_preconditioned_step_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = Langevin(
        [weight], lr=0.5, data_size=8, preconditioner="rmsprop", alpha=0.9, eps=1.0, seed=4
    )
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    # v = 0.1·9, v̂ = 9, G = 1/(3 + 1); drift 0.5·3/4, variance 2·0.5/8·G = 1/32.
    moved = weight.item() - (1.0 - 0.375)
    plain = torch.nn.Parameter(torch.tensor([0.0]))
    optimizer = Langevin([plain], lr=0.5, data_size=8, seed=4)
    plain.grad = torch.tensor([0.0])
    optimizer.step()
    assert moved == pytest.approx(plain.item() * math.sqrt(1 / 32) / math.sqrt(1 / 8), abs=1e-6)


def test_noise_depends_on_the_seed_and_the_update_alone() -> None:
    def walk(updates: int, seed: int = 1, restore: dict | None = None) -> tuple[Tensor, dict]:
        weights = [torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.zeros(2, 3))]
        optimizer = Langevin(weights, lr=0.1, data_size=10, seed=seed)
        if restore is not None:
            optimizer.load_state_dict(restore)
        torch.rand(7)  # the global generator plays no part
        for _ in range(updates):
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            optimizer.step()
        return torch.cat([w.detach().flatten() for w in weights]), optimizer.state_dict()

    whole, _ = walk(6)
    first, saved = walk(4)
    rest, _ = walk(2, restore=copy.deepcopy(saved))
    torch.testing.assert_close(first + rest, whole)
    other, _ = walk(6, seed=2)
    assert not torch.allclose(other, whole)
    assert (first[:5] - first[5:10]).abs().min() > 0  # parameters do not share their noise
    assert (walk(1)[0] - rest).abs().min() > 0


def test_noise_waits_for_the_burn_in_and_for_exploration_to_end() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = Langevin([weight], lr=0.1, data_size=10, burn_in=2)
    moved = []
    for update in range(4):
        optimizer.param_groups[0]["explores"] = update == 2
        before = weight.detach().clone()
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        moved.append(bool((weight != before).any()))
    assert moved == [False, False, False, True]


def test_a_cycle_falls_from_the_largest_rate_to_nothing() -> None:
    rates = [cycle_at(k, 4, 0.8, 0.5) for k in range(9)]
    # 0.4·(cos(πr) + 1) at r = 0, ¼, ½, ¾.
    expected = [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))]
    assert [rate for rate, _, _ in rates] == pytest.approx(expected * 2 + [0.8])
    assert [explores for _, explores, _ in rates] == [True, True, False, False] * 2 + [True]
    assert [k for k, (_, _, ended) in enumerate(rates) if ended] == [4, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_size": 0}, "tokens of the training set"),
        ({"temperature": -1.0}, "temperature, got -1"),
        ({"preconditioner": "adam"}, "got 'adam'"),
        ({"alpha": 1.0}, "alpha, got 1"),
        ({"eps": 0.0}, "eps, got 0"),
        ({"burn_in": -1}, "burn_in, got -1"),
        ({"weight_decay": -0.1}, "weight_decay, got -0.1"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Langevin([torch.nn.Parameter(torch.zeros(1))], **({"lr": 0.1, "data_size": 5} | options))


def test_bad_cycles() -> None:
    with pytest.raises(InputError, match="at least 1 update, got 0"):
        cycle_at(0, 0, 0.1, 0.5)
    with pytest.raises(InputError, match="below 1, got 1"):
        cycle_at(0, 5, 0.1, 1.0)
