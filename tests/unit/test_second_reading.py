"""KL and agreement of two readings of the same rows, and what temperatures make of one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdistill.errors import InputError
from seqdistill.uncertainty.second_reading import (
    DEFAULT_TEMPERATURES,
    check_temperatures,
    compare_predictions,
    log_partitions,
    read_temperatures,
)
from tests.reference.second_readings import divergence, log_partition


def predictions(
    seed: int,
    rows: int = 6,
    V: int = 50,
    sharpness: float = 3.0,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(rows, V, dtype=torch.float64, generator=generator)
    return torch.log_softmax(logits, dim=-1).to(dtype)


@pytest.mark.parametrize(("rows", "V"), [(1, 2), (7, 50), (70, 4003)])
def test_agrees_with_a_loop(rows: int, V: int) -> None:
    p, q = predictions(1, rows, V), predictions(2, rows, V)
    found, agrees = compare_predictions(p, q)
    of_p, of_q = (x.double().softmax(-1).tolist() for x in (p, q))
    for row in range(rows):
        assert found[row].item() == pytest.approx(divergence(of_q[row], of_p[row]), rel=1e-6)
        best = [max(range(V), key=x[row].__getitem__) for x in (of_p, of_q)]
        assert agrees[row].item() == (best[0] == best[1])


def test_nearly_the_same_systems_do_not_cancel() -> None:
    """float32 log-probabilities are normalised to 1e-7; the divergence is far smaller."""
    exact = predictions(3, rows=20, V=4000, dtype=torch.float64)
    noise = 1e-4 * predictions(4, rows=20, V=4000, dtype=torch.float64)
    other = torch.log_softmax(exact + noise, dim=-1)
    found, _ = compare_predictions(other.float(), exact.float())
    true = (exact.exp() * (exact - other)).sum(-1)
    assert true.max() < 1e-7
    torch.testing.assert_close(found, true, rtol=1e-2, atol=1e-12)
    naive = (exact.float().exp() * (exact.float() - other.float())).sum(-1).double()
    assert (naive - true).abs().max() > 10 * (found - true).abs().max()


@given(st.integers(0, 1000), st.floats(0.1, 30.0))
@settings(max_examples=25, deadline=None)
def test_a_divergence_is_never_negative(seed: int, sharpness: float) -> None:
    p = predictions(seed, sharpness=sharpness)
    for q in (p, p + 1e-7, predictions(seed + 1, sharpness=sharpness), p.flip(0)):
        found, _ = compare_predictions(p, q)
        assert bool((found >= 0.0).all())
    found, agrees = compare_predictions(p, p.clone())
    assert found.tolist() == [0.0] * len(p)
    assert bool(agrees.all())


def test_impossible_pieces() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]).log()
    q = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]).log()
    found, _ = compare_predictions(p, q)
    assert found.tolist() == pytest.approx([math.log(2.0), math.inf, math.log(2.0)])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = predictions(1, 40, 5000), predictions(2, 40, 5000)
    together, _ = compare_predictions(p, q)  # 26 rows a chunk
    alone = [compare_predictions(a[None], b[None])[0] for a, b in zip(p, q, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=0)
    empty = compare_predictions(p[:0], q[:0])
    assert [x.shape for x in empty] == [(0,), (0,)]


def test_other_vocabularies_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"predicts \(6, 50\).*\(6, 51\); both need one dictionary"
    ):
        compare_predictions(predictions(1), predictions(1, V=51))


def test_log_partitions_agree_with_a_loop() -> None:
    p = predictions(5, rows=60, V=3000)
    p[0] = float("-inf")
    p[0, :2] = math.log(0.5)
    found = log_partitions(p, DEFAULT_TEMPERATURES)
    assert found.shape == (17, 60)
    for k in (0, 5, 8, 16):
        for row in (0, 1, 59):
            expected = log_partition(p[row].double().exp().tolist(), DEFAULT_TEMPERATURES[k])
            assert found[k, row].item() == pytest.approx(expected, abs=2e-6)
    assert found[8].abs().max() < 1e-6  # ln Σ p = 0 at T = 1
    assert log_partitions(p[:0], (1.0, 2.0)).shape == (2, 0)


def test_temperatures_are_read() -> None:
    assert read_temperatures(None) == ()
    assert read_temperatures("default")[::8] == (0.5, 1.0, 2.0)
    assert read_temperatures("2,1,0.5") == (0.5, 1.0, 2.0)
    for wrong, message in (
        ("1,x", "commas between them, or default; got '1,x'"),
        ("1,", "commas between them"),
        ("0,1", "above 0"),
        ("inf", "above 0"),
        ("1,1", "different"),
    ):
        with pytest.raises(InputError, match=message):
            read_temperatures(wrong)
    with pytest.raises(InputError, match="above 0"):
        check_temperatures([float("nan")])
