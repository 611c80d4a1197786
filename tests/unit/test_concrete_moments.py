"""Mean and entropies of Concrete distributions, by one integral."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqdistill.numerics.concrete_moments import (
    DEPTH,
    ConcreteMoments,
    CountedPoints,
    concrete_moments,
    counted_points,
)
from seqdistill.numerics.gumbel_sums import LARGEST_LOG_TEMPERATURE, cubic_weights
from tests.reference import concrete_moments as reference

LOG_WEIGHTS = [0.0, -0.3, -1.0, -2.5, -6.0]


def rows(log_weights: list[float]) -> Tensor:
    return torch.tensor([log_weights], dtype=torch.float64)


def whole(log_weights: Tensor) -> CountedPoints:
    """Every piece a point of its own."""
    return CountedPoints(log_weights.double(), torch.ones_like(log_weights, dtype=torch.float64))


def moments(log_weights: Tensor, temperature: float) -> ConcreteMoments:
    log_temperatures = torch.full((len(log_weights),), math.log(temperature))
    return concrete_moments(whole(log_weights), log_temperatures)


@pytest.mark.parametrize("gap", [0.01, 0.5, 2.0, 5.0, 12.0])
def test_two_pieces_have_a_closed_form_at_one(gap: float) -> None:
    both = rows([0.0, -gap])
    found = moments(both, 1.0).log_means(both).exp()[0].tolist()
    expected = reference.two_pieces(gap)
    assert found == pytest.approx([expected, 1.0 - expected], rel=2e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 1.7, 6.0])
def test_samples_say_the_same(temperature: float) -> None:
    log_weights = rows(LOG_WEIGHTS)
    made = moments(log_weights, temperature)
    drawn = reference.sampled(np.array(LOG_WEIGHTS), temperature, 200_000)
    found = {
        "mean": made.log_means(log_weights)[0].exp(),
        "mean_of_logs": made.means_of_logs(log_weights)[0],
        "data_uncertainty": made.data_uncertainty[0],
    }
    for name, (value, error) in drawn.items():
        np.testing.assert_array_less(
            np.abs(found[name].numpy() - value), 5.0 * error + 2e-5, err_msg=name
        )
    mean = found["mean"]
    entropy = -(mean * mean.log()).sum()
    assert made.total_uncertainty.item() == pytest.approx(entropy.item(), abs=2e-5)
    epkl = -(mean * found["mean_of_logs"]).sum() - found["data_uncertainty"]
    assert made.epkl.item() == pytest.approx(epkl.item(), rel=1e-4, abs=2e-5)
    assert made.mutual_information.item() > 0.0
    assert made.reverse_mutual_information.item() > 0.0


def test_low_temperatures_leave_the_categorical_distribution() -> None:
    generator = torch.Generator().manual_seed(1)
    log_weights = torch.randn(4, 300, generator=generator, dtype=torch.float64) * 3
    log_weights -= log_weights.amax(dim=-1, keepdim=True)
    made = moments(log_weights, math.exp(-LARGEST_LOG_TEMPERATURE))
    probabilities = torch.softmax(log_weights, dim=-1)
    torch.testing.assert_close(made.log_means(log_weights).exp(), probabilities, rtol=1e-3, atol=0)
    # Samples are one-hot: no data uncertainty is left, all of it is between them.
    assert float(made.data_uncertainty.max()) < 0.05
    entropy = -(probabilities * probabilities.log()).sum(dim=-1)
    torch.testing.assert_close(made.total_uncertainty, entropy, rtol=1e-3, atol=1e-3)


def test_high_temperatures_tend_to_uniform() -> None:
    log_weights = rows([0.0, -1.0, -2.0, -3.0])
    made = moments(log_weights, 64.0)
    assert made.log_means(log_weights).exp()[0].tolist() == pytest.approx([0.25] * 4, abs=0.01)
    assert made.mutual_information.item() == pytest.approx(0.0, abs=1e-3)


def test_equal_pieces_are_equally_probable() -> None:
    seven = rows([0.0] * 7)
    made = moments(seven, 0.4)
    assert made.log_means(seven).exp()[0].tolist() == pytest.approx([1 / 7] * 7, rel=1e-5)
    assert made.total_uncertainty.item() == pytest.approx(math.log(7), abs=1e-5)


@given(
    st.lists(st.floats(-60.0, 0.0), min_size=2, max_size=30),
    st.floats(-LARGEST_LOG_TEMPERATURE, LARGEST_LOG_TEMPERATURE),
)
def test_the_order_is_that_of_the_weights(gaps: list[float], log_temperature: float) -> None:
    ordered = torch.tensor([sorted([*gaps, 0.0], reverse=True)], dtype=torch.float64)
    made = concrete_moments(counted_points(ordered), torch.tensor([log_temperature]))
    log_means = made.log_means(ordered)[0]
    assert bool(torch.isfinite(log_means).all())
    assert bool((log_means.diff() <= 1e-9).all())


@pytest.mark.parametrize("temperature", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("V", [4000, 40_000])
def test_points_are_as_good_as_all_pieces(V: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, V, generator=generator) * 2.5
    logits[0, 7], logits[1, :3] = 18.0, torch.tensor([14.0, 13.9, 13.8])
    gaps = logits - logits.amax(dim=-1, keepdim=True)
    log_temperatures = torch.full((2,), math.log(temperature))
    counted = counted_points(logits)
    assert counted.values.shape == (2, 640)
    assert counted.counts.sum(dim=-1).tolist() == [V, V]
    few = concrete_moments(counted, log_temperatures)
    full = concrete_moments(whole(gaps), log_temperatures)
    torch.testing.assert_close(few.log_means(gaps), full.log_means(gaps), atol=1e-3, rtol=0)
    assert few.log_means(gaps).exp().sum(dim=-1).tolist() == pytest.approx([1.0, 1.0], rel=3e-4)
    for name in ("total_uncertainty", "data_uncertainty", "epkl"):
        torch.testing.assert_close(getattr(few, name), getattr(full, name), atol=1e-3, rtol=1e-4)


def test_what_is_deeper_than_the_grid_keeps_its_odds() -> None:
    deep = rows([0.0, -DEPTH - 3.0, -DEPTH - 5.0])
    low = moments(deep, 1.0 / 64).log_means(deep)[0]
    assert float(low[1] - low[2]) == pytest.approx(2.0, rel=1e-3)
    assert float(low[1]) == pytest.approx(-DEPTH - 3.0, rel=1e-3)


def test_rows_can_be_taken_and_joined() -> None:
    generator = torch.Generator().manual_seed(3)
    log_weights = torch.randn(5, 9, generator=generator)
    log_weights -= log_weights.amax(dim=-1, keepdim=True)
    together = moments(log_weights, 0.7)
    parts = ConcreteMoments.join([moments(log_weights[:2], 0.7), moments(log_weights[2:], 0.7)])
    chosen = torch.tensor([4, 0, 4])
    torch.testing.assert_close(
        parts.at(chosen).log_means(log_weights[chosen]), together.log_means(log_weights)[chosen]
    )


def test_derivatives_are_those_of_the_values() -> None:
    log_weights = torch.tensor([[0.0, -0.31, -1.13, -2.57]], dtype=torch.float64)
    targets = torch.tensor([[-0.31]], dtype=torch.float64)

    def values(log_temperature: Tensor, log_scale: Tensor) -> Tensor:
        # The highest is the reference point of all others and stays where it is.
        scale = (-log_scale).exp().unsqueeze(-1)
        made = concrete_moments(whole_of(log_weights * scale), log_temperature)
        found = [made.log_means(targets * scale)[0, 0], made.data_uncertainty[0], made.epkl[0]]
        return torch.stack(found)

    def whole_of(points: Tensor) -> CountedPoints:
        return CountedPoints(points, torch.ones_like(points))

    at = (torch.tensor([-0.43], dtype=torch.float64), torch.tensor([0.21], dtype=torch.float64))
    assert torch.autograd.gradcheck(
        values, tuple(one.requires_grad_() for one in at), eps=1e-5, atol=1e-5, rtol=1e-4
    )


def test_cubic_weights_are_exact_for_cubics() -> None:
    nodes = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    places = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    found = cubic_weights(places) @ (2 * nodes**3 - nodes + 1)
    torch.testing.assert_close(found, 2 * places**3 - places + 1)
