import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from seqdistill.assessment import (
    LogBins,
    aupr,
    auroc,
    calibration,
    detect,
    fpr_at_95_tpr,
    histogram_quantiles,
    joint_log_histogram,
    log_histogram,
    reject,
    roc_curve,
    spearman,
    spearman_from_joint_histogram,
)
from tests.reference import assessment as reference

# Few distinct values make ties; a wide range makes extremes.
tied = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 2.0]), min_size=1, max_size=25)
wide = st.lists(
    st.floats(-1e300, 1e300, allow_nan=False, allow_infinity=False), min_size=1, max_size=25
)
scores = tied | wide
positive = st.floats(1e-12, 1e6)


@given(scores, scores)
def test_detection_agrees_with_loops(inside: list[float], outside: list[float]) -> None:
    assert auroc(inside, outside) == pytest.approx(reference.auroc(inside, outside), abs=1e-12)
    expected = reference.average_precision(outside, inside)
    assert aupr(inside, outside) == pytest.approx(expected, abs=1e-12)
    negated = [-x for x in inside], [-x for x in outside]
    expected = reference.average_precision(*negated)
    assert aupr(inside, outside, positive="in") == pytest.approx(expected, abs=1e-12)
    assert fpr_at_95_tpr(inside, outside) == reference.fpr_at_95_tpr(inside, outside)


@given(scores, scores)
def test_swapping_the_sets_mirrors_auroc(inside: list[float], outside: list[float]) -> None:
    assert auroc(inside, outside) + auroc(outside, inside) == pytest.approx(1.0, abs=1e-12)


@given(scores, scores, st.randoms(use_true_random=False))
def test_the_order_of_sentences_says_nothing(inside, outside, random) -> None:
    shuffled = random.sample(inside, len(inside)), random.sample(outside, len(outside))
    assert detect(*shuffled, resamples=0) == detect(inside, outside, resamples=0)


@given(tied, tied)
def test_area_under_the_roc_curve_is_auroc(inside: list[float], outside: list[float]) -> None:
    curve = roc_curve(inside, outside)
    area = np.sum(np.diff(curve.fpr) * (curve.tpr[1:] + curve.tpr[:-1])) / 2
    assert area == pytest.approx(auroc(inside, outside), abs=1e-12)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)


@given(scores, scores, st.integers(0, 5))
def test_intervals_are_ordered_and_in_range(inside, outside, seed: int) -> None:
    result = detect(inside, outside, resamples=25, seed=seed)
    for estimate in (result.auroc, result.aupr_out, result.aupr_in, result.fpr_at_95_tpr):
        assert 0.0 <= estimate.low <= estimate.high <= 1.0 + 1e-12
        assert 0.0 <= estimate.value <= 1.0 + 1e-12


rated = st.lists(
    st.tuples(st.sampled_from([0.0, 10.0, 37.5, 80.0, 100.0]), st.sampled_from([0.1, 0.2, 0.7])),
    min_size=1,
    max_size=25,
)


@given(rated)
def test_rejection_curves(pairs: list[tuple[float, float]]) -> None:
    quality, uncertainty = np.array(pairs).T
    result = reject(quality, uncertainty, resamples=0)
    for curve in (result.curve, result.oracle, result.random):
        assert curve[0] == pytest.approx(quality.mean())
        assert curve[-1] == pytest.approx(100.0)
        assert (np.diff(curve) >= -1e-9).all()  # handing over never hurts
    assert (result.oracle >= result.curve - 1e-9).all()
    assert (result.oracle >= result.random - 1e-9).all()
    if len(set(quality)) == 1:
        assert result.prr is None
        return
    assert -1.0 - 1e-12 <= result.prr.value <= 1.0 + 1e-12
    flipped = reject(quality, -uncertainty, resamples=0)
    assert flipped.prr.value == pytest.approx(-result.prr.value, abs=1e-12)
    # Another scale of quality, another bound: the ratio stays.
    scaled = reject(quality / 50 - 1, uncertainty, best=7.0, resamples=0)
    assert scaled.prr.value == pytest.approx(result.prr.value, abs=1e-9)


tokens = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(tokens, st.integers(1, 20), st.sampled_from(["equal_mass", "equal_width"]))
def test_calibration_bounds(pairs: list[tuple[float, bool]], bins: int, binning: str) -> None:
    confidence, correct = zip(*pairs, strict=True)
    result = calibration(confidence, correct, bins=bins, binning=binning)
    assert 0.0 <= result.ece <= 1.0
    assert result.count.sum() == len(pairs)
    assert len(result.count) <= bins
    # Merging all bins can only cancel errors.
    gap = abs(np.mean(confidence) - np.mean(correct))
    assert result.ece >= gap - 1e-12


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=40))
def test_spearman_of_ranks_and_of_histograms(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    value = spearman(x, y)
    assume(value is not None)
    assert -1.0 <= value <= 1.0
    assert spearman(y, x) == pytest.approx(value, abs=1e-12)
    assert spearman(-x, y) == pytest.approx(-value, abs=1e-12)
    assert spearman(x, x) == pytest.approx(1.0)
    joint = joint_log_histogram(torch.from_numpy(x.copy()), torch.from_numpy(y.copy()))
    binned = spearman_from_joint_histogram(joint)
    assert binned is None or -1.0 <= binned <= 1.0
    transposed = spearman_from_joint_histogram(joint.T)
    assert transposed == (None if binned is None else pytest.approx(binned, abs=1e-12))


@given(
    st.lists(st.floats(allow_nan=False), max_size=40),
    st.lists(st.floats(allow_nan=False), max_size=40),
)
def test_histograms_add(first: list[float], second: list[float]) -> None:
    bins = LogBins(1e-3, 1e3, 13)
    parts = [log_histogram(torch.tensor(v, dtype=torch.float64), bins) for v in (first, second)]
    whole = log_histogram(torch.tensor(first + second, dtype=torch.float64), bins)
    assert torch.equal(parts[0] + parts[1], whole)
    assert whole.sum().item() == len(first) + len(second)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_monotone_and_in_range(values: list[float], q: float) -> None:
    bins = LogBins(1e-3, 1e3, 60)
    histogram = log_histogram(torch.tensor(values, dtype=torch.float64), bins)
    low, at, high = histogram_quantiles(histogram, [q / 2, q, 1.0], bins)
    assert low <= at <= high
    width = bins.edges()[1] / bins.edges()[0]
    assert min(values) / width <= low * (1 + 1e-9)
    assert high <= max(values) * width * (1 + 1e-9)
