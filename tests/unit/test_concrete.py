"""The Concrete distribution: density, samples, limits; the loss of members under it."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import RelaxedOneHotCategorical
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from seqdistill.errors import InputError
from seqdistill.losses.concrete import concrete_loss
from seqdistill.numerics.concrete import (
    concrete_log_density,
    concrete_log_samples,
    exp_concrete_entropy,
    exp_concrete_log_density,
    gumbel_variates,
    open_uniforms,
)
from tests.reference import logit_space as reference

TEMPERATURES = (0.3, 1.0, 4.0)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def draw(weights: Tensor, temperature: float, samples: int, seed: int = 0) -> Tensor:
    """(samples, V) ln x."""
    gumbels = gumbel_variates((samples, len(weights)), torch.Generator().manual_seed(seed))
    return concrete_log_samples(weights.log(), number(temperature), gumbels)


# --- density ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_density_is_the_papers_formula_and_torchs(temperature: float) -> None:
    weights = torch.tensor([0.2, 1.5, 3.0, 0.7], dtype=torch.float64)
    x = torch.softmax(torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64), dim=-1)
    found = concrete_log_density(x.log(), weights.log(), number(temperature)).item()
    plain = reference.concrete_density(x.tolist(), weights.tolist(), temperature)
    of_torch = RelaxedOneHotCategorical(number(temperature), logits=weights.log())
    assert found == pytest.approx(math.log(plain), rel=1e-12)
    assert found == pytest.approx(of_torch.log_prob(x).item(), rel=1e-9)
    of_logs = exp_concrete_log_density(x.log(), weights.log(), number(temperature)).item()
    exp_of_torch = ExpRelaxedCategorical(number(temperature), logits=weights.log())
    assert of_logs == pytest.approx(exp_of_torch.log_prob(x.log()).item(), rel=1e-9)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_density_of_two_pieces_integrates_to_one(temperature: float) -> None:
    """Over the log-odds t of x = sigmoid(t), dx = x (1 − x) dt: the density rises at the ends."""
    log_weights = torch.tensor([0.4, -0.7], dtype=torch.float64)

    def density(t: float) -> float:
        log_x = torch.nn.functional.logsigmoid(torch.tensor([t, -t], dtype=torch.float64))
        log_density = concrete_log_density(log_x, log_weights, number(temperature))
        return math.exp(log_density.item() + log_x.sum().item())

    reach = 60 / temperature
    total, _ = integrate.quad(density, -reach, reach, limit=200, points=[0.0])
    assert total == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_density_of_three_pieces_integrates_to_one(temperature: float) -> None:
    """Over two log-ratios, whose Jacobian is x₁ x₂ x₃: a fine grid of a smooth function."""
    log_weights = torch.tensor([0.4, -0.7, 0.1], dtype=torch.float64)
    grid = torch.linspace(-45, 45, 1201, dtype=torch.float64) / temperature
    logits = torch.stack([*torch.meshgrid(grid, grid, indexing="ij"), torch.zeros(1201, 1201)], -1)
    log_x = torch.log_softmax(logits, dim=-1)
    log_density = concrete_log_density(log_x, log_weights, number(temperature)) + log_x.sum(-1)
    total = log_density.exp().sum().item() * (grid[1] - grid[0]).item() ** 2
    assert total == pytest.approx(1.0, abs=1e-6)


def test_density_where_probabilities_underflow() -> None:
    """ln x of −2,000: x itself is 0 in float64, and x^−λ would be infinite."""
    log_x = torch.log_softmax(torch.tensor([0.0, -2000.0, -1000.0], dtype=torch.float64), dim=-1)
    found = concrete_log_density(log_x, torch.zeros(3, dtype=torch.float64), number(2.0))
    # u = (0, 4000, 2000): Σu − 3 max u = −6000, ln 2! + 2 ln 2 + 3000 of the simplex's Jacobian.
    assert found.item() == pytest.approx(math.log(8) - 6000 + 3000, abs=1e-9)


def test_density_needs_only_differences_of_log_weights() -> None:
    log_x = torch.log_softmax(torch.tensor([0.3, -1.0, 0.5]), dim=-1)
    log_weights = torch.tensor([1.0, 0.2, -0.5])
    one = concrete_log_density(log_x, log_weights, torch.tensor(0.7))
    other = concrete_log_density(log_x, log_weights + 11, torch.tensor(0.7))
    assert one.item() == pytest.approx(other.item(), abs=2e-5)


@pytest.mark.parametrize(
    ("x", "temperature", "words"),
    [
        ([1.0, 0.0], 1.0, "border of the simplex"),
        ([0.5, 0.5], 0.0, "above 0"),
        ([1.0], 1.0, "at least 2"),
    ],
)
def test_density_refuses(x: list[float], temperature: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        concrete_log_density(torch.tensor(x).log(), torch.zeros(len(x)), torch.tensor(temperature))


# --- samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_samples_of_two_pieces_have_logistic_log_odds(temperature: float) -> None:
    """λ (ln x₁ − ln x₂) − ln(α₁/α₂) is the difference of two Gumbels: logistic."""
    weights = torch.tensor([2.0, 0.5], dtype=torch.float64)
    log_x = draw(weights, temperature, 4000)
    odds = (log_x[:, 0] - log_x[:, 1]) * temperature - math.log(4.0)
    assert stats.kstest(odds.numpy(), "logistic").pvalue > 0.01


def test_samples_of_three_pieces_fall_where_the_density_says() -> None:
    """Shares of cells of the simplex, against the density summed over each cell."""
    weights, temperature = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), 1.5
    x = draw(weights, temperature, 40_000).exp()
    fine = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    a, b = (c.flatten() for c in torch.meshgrid(fine, fine, indexing="ij"))
    inside = a + b < 1 - 1e-12
    points = torch.stack([a[inside], b[inside], 1 - a[inside] - b[inside]], -1)
    mass = concrete_log_density(points.log(), weights.log(), number(temperature)).exp() / 600**2
    for i in range(5):
        for j in range(5 - i):
            cell = points[:, :2].mul(5).floor().eq(torch.tensor([i, j])).all(-1)
            wanted = mass[cell].sum().item()
            found = x[:, :2].mul(5).floor().eq(torch.tensor([i, j])).all(-1).double().mean().item()
            assert found == pytest.approx(wanted, abs=5 * math.sqrt(wanted / 40_000) + 2e-3)


@pytest.mark.parametrize("temperature", [0.01, 0.5, 3.0])
def test_the_largest_entry_is_categorical_at_every_temperature(temperature: float) -> None:
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    largest = draw(weights, temperature, 20_000).argmax(dim=-1)
    counts = torch.bincount(largest, minlength=3).numpy()
    assert stats.chisquare(counts, (weights / 8 * 20_000).numpy()).pvalue > 0.01


def test_low_temperatures_are_categorical_and_high_ones_uniform() -> None:
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    cold = draw(weights, 1e-3, 20_000).exp()
    assert (cold.amax(dim=-1) > 0.999).double().mean() > 0.99
    assert torch.allclose(cold.mean(0), weights / 8, atol=0.012)
    hot = draw(weights, 1e4, 1000).exp()
    assert (hot - 1 / 3).abs().max() < 1e-3


def test_ratios_of_some_entries_are_concrete() -> None:
    weights, temperature = torch.tensor([2.0, 7.0, 0.5], dtype=torch.float64), 1.7
    log_x = draw(weights, temperature, 4000)
    odds = (log_x[:, 0] - log_x[:, 2]) * temperature - math.log(4.0)
    assert stats.kstest(odds.numpy(), "logistic").pvalue > 0.01


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_entropy_is_the_mean_of_minus_the_log_density(temperature: float) -> None:
    weights = torch.tensor([1.0, 2.0, 5.0, 0.1], dtype=torch.float64)
    log_x = draw(weights, temperature, 20_000)
    surprise = -exp_concrete_log_density(log_x, weights.log(), number(temperature))
    wanted = exp_concrete_entropy(4, number(temperature)).item()
    assert surprise.mean().item() == pytest.approx(wanted, abs=5 * surprise.std().item() / 141)


def test_uniform_numbers_are_never_zero_or_one() -> None:
    drawn = open_uniforms((1000,), torch.Generator().manual_seed(0))
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert torch.isfinite(gumbel_variates((1000,), torch.Generator().manual_seed(0))).all()


# --- the loss ---------------------------------------------------------------------------------


def case(V: int = 5, M: int = 3, N: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(V)
    shapes = ((N, V), (N, 1), (M, N, V))
    z, s, members = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return z, 0.5 * s, members


def test_loss_is_that_of_the_reference() -> None:
    z, log_temperature, members = case()
    found, count = concrete_loss(
        z, log_temperature, members, mean_weight=0.6, likelihood_weight=1.4
    )
    wanted = 0.0
    for n in range(2):
        rows = members[:, n].tolist()
        wanted += 1.4 * reference.concrete_likelihood(
            z[n].tolist(), log_temperature[n].item(), rows
        )
        wanted += 0.6 * reference.mean_divergence(z[n].tolist(), rows)
    assert found.item() == pytest.approx(wanted, rel=1e-12)
    assert int(count) == 2


def test_loss_needs_only_differences_of_logits() -> None:
    z, log_temperature, members = case()
    one, _ = concrete_loss(z, log_temperature, members)
    other, _ = concrete_loss(z + 5, log_temperature, members - 3)
    assert one.item() == pytest.approx(other.item(), rel=1e-12)


def test_loss_finds_location_and_temperature_of_its_own_samples() -> None:
    """Members drawn from a known Concrete: gradient descent comes back to its parameters."""
    V, degree = 200, 3.0
    truth = torch.randn(V, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gumbels = gumbel_variates((60, 1, V), torch.Generator().manual_seed(2))
    members = concrete_log_samples(degree * truth, number(degree), gumbels)
    z = torch.zeros(1, V, dtype=torch.float64, requires_grad=True)
    s = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z, s], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = concrete_loss(z, s, members, mean_weight=0.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert s.exp().item() == pytest.approx(degree, rel=0.05)
    error = (z - z.mean()) - (truth - truth.mean())
    assert error.abs().mean() < 0.1


def test_loss_ignores_padding_and_keeps_its_digits_in_float32() -> None:
    z, log_temperature, members = case(V=300)
    mask = torch.tensor([True, False])
    wanted, _ = concrete_loss(z[:1], log_temperature[:1], members[:, :1])
    z[1], log_temperature[1], members[:, 1] = math.nan, math.inf, -math.inf
    found, count = concrete_loss(z, log_temperature, members, mask)
    assert found.item() == wanted.item()
    assert int(count) == 1
    single, _ = concrete_loss(z.float() + 60, log_temperature.float(), members.float() - 60, mask)
    assert single.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_loss_refuses_a_temperature_a_piece() -> None:
    z, _, members = case()
    with pytest.raises(InputError, match="one log-temperature a token"):
        concrete_loss(z, torch.zeros_like(z), members)
    with pytest.raises(InputError, match="at least one member"):
        concrete_loss(z, torch.zeros(2, 1, dtype=torch.float64), members[:0])
