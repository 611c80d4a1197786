"""Ensemble statistics: values, streaming, impossible pieces and bad input."""

import gc
import math
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.teachers import EnsembleStatistics, StatisticsAccumulator, ensemble_statistics
from tests.reference import ensembles

MEASURES = (
    "total_uncertainty",
    "data_uncertainty",
    "mutual_information",
    "epkl",
    "reverse_mutual_information",
)
VECTORS = ("mean_probs", "mean_log_probs")


def members(*shape: int, scale: float = 2.0, seed: int = 0, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
    return torch.log_softmax(logits, dim=-1).to(dtype)


def assert_statistics_equal(first: EnsembleStatistics, second: EnsembleStatistics) -> None:
    for name in VECTORS + MEASURES:
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert (first.members, first.temperature) == (second.members, second.temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 5.0])
@pytest.mark.parametrize(("M", "V", "scale"), [(2, 2, 1.0), (3, 7, 6.0), (10, 50, 0.1)])
def test_statistics_agree_with_loops(M: int, V: int, scale: float, temperature: float) -> None:
    log_probs = members(M, 2, 3, V, scale=scale)
    statistics = ensemble_statistics(log_probs, temperature=temperature)
    assert (statistics.members, statistics.temperature) == (M, temperature)
    for b in range(2):
        for t in range(3):
            read = [
                ensembles.at_temperature(log_probs[m, b, t].tolist(), temperature) for m in range(M)
            ]
            for name in MEASURES:
                value = getattr(statistics, name)
                assert value.shape == (2, 3)
                assert value[b, t].item() == pytest.approx(
                    getattr(ensembles, name)(read), rel=1e-9, abs=1e-12
                ), name
            for name in VECTORS:
                expected = getattr(ensembles, name)(read)
                assert getattr(statistics, name)[b, t].tolist() == pytest.approx(
                    expected, rel=1e-12
                )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.05), (torch.float16, 5e-3)]
)
def test_low_precision_members_are_read_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    exact = members(4, 5, 11)
    statistics = ensemble_statistics(exact.to(dtype))
    expected = ensemble_statistics(exact)
    for name in MEASURES + VECTORS:
        value = getattr(statistics, name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(
            value.double(), getattr(expected, name), rtol=tolerance, atol=tolerance
        )
    # Rounding must come from the input alone.
    again = ensemble_statistics(exact.to(dtype).float())
    assert_statistics_equal(statistics, again)


def test_tensor_list_and_generator_are_the_same() -> None:
    log_probs = members(5, 2, 3, 7, dtype=torch.float32)
    expected = ensemble_statistics(log_probs)
    assert_statistics_equal(ensemble_statistics(list(log_probs)), expected)
    assert_statistics_equal(ensemble_statistics(member for member in log_probs), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_generator_has_one_member_alive_at_a_time(temperature: float) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def make(seed: int) -> Tensor:
        nonlocal most
        gc.collect()
        most = max(most, sum(reference() is not None for reference in alive))
        member = members(3, 7, seed=seed)
        alive.append(weakref.ref(member))
        return member

    def stream() -> Iterator[Tensor]:
        for seed in range(6):
            yield make(seed)

    statistics = ensemble_statistics(stream(), temperature=temperature)
    assert most == 0, "an earlier member was alive while the next was made"
    assert all(reference() is None for reference in alive)
    stacked = torch.stack([members(3, 7, seed=seed) for seed in range(6)])
    assert_statistics_equal(statistics, ensemble_statistics(stacked, temperature=temperature))


def test_members_are_not_mutated_and_carry_no_graph() -> None:
    log_probs = members(3, 2, 5).requires_grad_()
    before = log_probs.detach().clone()
    for temperature in (1.0, 3.0):
        statistics = ensemble_statistics(log_probs, temperature=temperature)
        assert torch.equal(log_probs, before)
        assert not statistics.mean_probs.requires_grad


def test_adding_the_sums_of_two_accumulators_merges_them() -> None:
    log_probs = members(5, 4, 7)
    first, second = StatisticsAccumulator(), StatisticsAccumulator()
    for m in range(5):
        (first if m < 2 else second).add(log_probs[m])
    assert first.sums is not None
    assert second.sums is not None
    for total, term in zip(first.sums, second.sums, strict=True):
        total.add_(term)
    first.count += second.count
    merged, expected = first.statistics(), ensemble_statistics(log_probs)
    assert merged.members == 5
    for name in MEASURES + VECTORS:
        torch.testing.assert_close(getattr(merged, name), getattr(expected, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_piece_that_no_member_allows_counts_for_nothing(dtype: torch.dtype) -> None:
    allowed = members(3, 4, 6, dtype=dtype)
    impossible = torch.full((3, 4, 2), -math.inf, dtype=dtype)
    statistics = ensemble_statistics(torch.cat([allowed, impossible], dim=-1))
    expected = ensemble_statistics(allowed)
    for name in MEASURES:
        torch.testing.assert_close(getattr(statistics, name), getattr(expected, name))
    assert (statistics.mean_probs[..., 6:] == 0).all()


def test_a_piece_that_one_member_excludes() -> None:
    half = math.log(0.5)
    log_probs = torch.tensor([[half, half, -math.inf], [half, -math.inf, half]])
    statistics = ensemble_statistics(log_probs)
    loops = log_probs.tolist()
    for name in ("total_uncertainty", "data_uncertainty", "mutual_information"):
        assert getattr(statistics, name).item() == pytest.approx(getattr(ensembles, name)(loops))
    # KL(p̄‖p_m) is infinite; the statistics say "larger than any other" without an inf or a NaN.
    assert ensembles.reverse_mutual_information(loops) == math.inf
    for name in ("reverse_mutual_information", "epkl"):
        value = getattr(statistics, name).item()
        assert 1e30 < value < math.inf, name


def test_agreeing_members_have_no_knowledge_uncertainty() -> None:
    one = members(1, 4, 500, dtype=torch.float32)[0]
    statistics = ensemble_statistics([one] * 10)
    assert (statistics.total_uncertainty > 1).all()
    for name in ("mutual_information", "epkl", "reverse_mutual_information"):
        value = getattr(statistics, name)
        assert (value >= 0).all(), name
        assert (value < 2e-6).all(), name


def test_nearly_equal_members_keep_digits_in_the_reverse_mutual_information() -> None:
    exact = members(1, 8, 400) + 0.01 * members(4, 8, 400, seed=1)
    exact = torch.log_softmax(exact, dim=-1)
    expected = ensemble_statistics(exact).reverse_mutual_information
    assert (expected < 1e-2).all()
    computed = ensemble_statistics(exact.float()).reverse_mutual_information
    torch.testing.assert_close(computed.double(), expected, rtol=1e-2, atol=2e-7)


@pytest.mark.parametrize("M", [0, 1])
def test_fewer_than_two_members_are_refused(M: int) -> None:
    with pytest.raises(InputError, match=rf"at least 2 members, got {M}"):
        ensemble_statistics(members(M, 2, 5))


def test_nan_names_the_guilty_members_only() -> None:
    log_probs = members(3, 2, 4, 5)
    log_probs[1, 0, :2, 3] = math.nan
    with pytest.raises(InputError, match=r"NaN.*b\.pt \(2 tokens\)") as caught:
        ensemble_statistics(log_probs, names=["a.pt", "b.pt", "c.pt"])
    assert "a.pt" not in str(caught.value)
    assert "c.pt" not in str(caught.value)
    with pytest.raises(InputError, match=r"member 2 \(2 tokens\)"):
        ensemble_statistics(log_probs)


def test_nan_in_padding_is_no_error_and_touches_no_other_token() -> None:
    log_probs = members(3, 2, 4, 5)
    expected = ensemble_statistics(log_probs)
    log_probs[1, 0, 3] = math.nan
    token_mask = torch.ones(2, 4, dtype=torch.bool)
    token_mask[0, 3] = False
    statistics = ensemble_statistics(log_probs, token_mask=token_mask)
    for name in MEASURES:
        value = getattr(statistics, name)[token_mask]
        assert torch.equal(value, getattr(expected, name)[token_mask])
    with pytest.raises(InputError, match="member 2"):
        ensemble_statistics(log_probs, token_mask=torch.ones(2, 4, dtype=torch.bool))


def test_members_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"member 2 .*\(2, 6\).*\(2, 5\).*one vocabulary"):
        ensemble_statistics([members(2, 5), members(2, 6)])
    # Broadcastable is not equal.
    with pytest.raises(InputError, match="one vocabulary"):
        ensemble_statistics([members(2, 5), members(1, 5)])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_impossible_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature above 0"):
        ensemble_statistics(members(2, 3, 5), temperature=temperature)


def test_more_members_than_names_are_refused() -> None:
    with pytest.raises(InputError, match="more members than the 2 names"):
        ensemble_statistics(members(3, 2, 5), names=["a", "b"])
