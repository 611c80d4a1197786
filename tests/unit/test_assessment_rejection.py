import numpy as np
import pytest

import seqdistill
from seqdistill.assessment import reject, rejection
from seqdistill.errors import InputError
from tests.reference import assessment as reference


def case(seed: int, n: int = 83) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    quality = random.uniform(0, 100, size=n)
    return quality, -quality / 100 + random.normal(size=n) * 0.4


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_loops(seed: int) -> None:
    quality, uncertainty = case(seed)
    result = reject(quality, uncertainty, resamples=0)
    order = np.argsort(-uncertainty).tolist()
    oracle = np.argsort(quality).tolist()
    np.testing.assert_allclose(result.curve, reference.rejection_curve(quality, order, 100.0))
    np.testing.assert_allclose(result.oracle, reference.rejection_curve(quality, oracle, 100.0))
    assert result.prr.value == pytest.approx(
        reference.rejection_ratio(quality.tolist(), uncertainty.tolist(), 100.0), abs=1e-12
    )
    assert result.kept[10] == pytest.approx(quality[order[10:]].mean())
    assert result.kept[0] == pytest.approx(quality.mean())


def test_ratio_is_that_of_the_areas_also_with_ties() -> None:
    quality, uncertainty = case(2)
    result = reject(quality.round(-1), uncertainty.round(1), resamples=0)
    measure, oracle, random = (
        reference.area(curve.tolist()) for curve in (result.curve, result.oracle, result.random)
    )
    assert result.prr.value == pytest.approx((measure - random) / (oracle - random), abs=1e-12)


def test_random_line_and_shared_ties_are_expectations() -> None:
    quality, uncertainty = case(3, n=6)
    uncertainty[[1, 4, 5]] = uncertainty[1]
    random = np.random.default_rng(0)
    curves, lines = [], []
    for _ in range(4000):
        jitter = random.uniform(0, 1e-9, size=6)
        order = np.argsort(-(uncertainty + jitter)).tolist()
        curves.append(reference.rejection_curve(quality, order, 100.0))
        lines.append(reference.rejection_curve(quality, random.permutation(6).tolist(), 100.0))
    result = reject(quality, uncertainty, resamples=0)
    np.testing.assert_allclose(result.curve, np.mean(curves, axis=0), atol=0.5)
    np.testing.assert_allclose(result.random, np.mean(lines, axis=0), atol=0.5)


def test_oracle_misleading_and_constant_order() -> None:
    quality = np.array([10.0, 40.0, 40.0, 90.0])
    assert reject(quality, -quality, resamples=0).prr.value == 1.0
    assert reject(quality, quality, resamples=0).prr.value == -1.0
    assert reject(quality, np.ones(4), resamples=0).prr.value == 0.0
    same = reject([50.0, 50.0], [1.0, 2.0])
    assert same.prr is None
    np.testing.assert_allclose(same.curve, [50.0, 75.0, 100.0])


def test_bootstrap_agrees_with_resampled_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    quality, uncertainty = case(4)
    quality, uncertainty = quality.round(-1), uncertainty.round(1)
    n, resamples = len(quality), 50
    draws = np.random.default_rng([9, 0]).integers(0, n, size=(resamples, n))
    slow = [reject(quality[i], uncertainty[i], resamples=0).prr.value for i in draws]
    low, high = np.quantile(slow, [0.025, 0.975])
    for chunk in (1 << 16, 3 * n):
        monkeypatch.setattr(rejection, "_CHUNK", chunk)
        prr = reject(quality, uncertainty, resamples=resamples, seed=9).prr
        assert (prr.low, prr.high) == (pytest.approx(low), pytest.approx(high))


def test_resamples_without_a_ratio_are_left_out() -> None:
    # Half of the resamples of two sentences hold one quality only.
    prr = reject([10.0, 20.0], [2.0, 1.0], resamples=20).prr
    assert (prr.low, prr.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("quality", "uncertainty", "message"),
    [
        ([], [], "quality: expected at least one value"),
        ([1.0], [1.0, 2.0], "one length, got quality: 1, uncertainty: 2"),
        ([1.0], [float("nan")], "uncertainty: 1 of 1 values are not finite"),
        ([101.0], [1.0], "exceeds the best"),
    ],
)
def test_bad_input(quality: list, uncertainty: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reject(quality, uncertainty)


def test_signature_says_how() -> None:
    result = reject([1.0, 2.0], [2.0, 1.0], measure="epkl", quality_name="sentence chrF", seed=3)
    assert result.signature == (
        "measure:epkl|est:chain-rule|comb:pe|norm:length|nbest:1|metric:prr|"
        "quality:sentence chrF|best:100|ties:shared|n:2|bs:1000|rs:3|ci:95|"
        f"version:{seqdistill.__version__}"
    )
