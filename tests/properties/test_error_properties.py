import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from seqdistill.assessment import compare, compare_detection, detect_errors
from tests.reference import retention as reference

SHARES = ("r_auc", "f1_auc", "f1_at_95", "aurc", "e_aurc")
RATIOS = ("prr", "prr_lm_polygraph", "prr_lm_polygraph_0.5")
sentences = st.lists(
    st.tuples(st.integers(0, 20).map(lambda q: 5.0 * q), st.integers(-3, 3).map(float)),
    min_size=2,
    max_size=25,
)


def numbers(quality: np.ndarray, uncertainty: np.ndarray) -> dict[str, float | None]:
    found = detect_errors(quality, {"u": uncertainty}, coverages=(0.5, 1.0), resamples=0)["u"]
    return {name: number and number.value for name, number in found.numbers.items()}


def arrays(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Quality and uncertainty, with both acceptable and unacceptable sentences."""
    quality, uncertainty = np.array(pairs).T
    acceptable = quality >= 40
    assume(acceptable.any() and not acceptable.all())
    return quality, uncertainty


@given(sentences)
def test_monotone_transforms_change_nothing(pairs: list[tuple[float, float]]) -> None:
    quality, uncertainty = arrays(pairs)
    before = numbers(quality, uncertainty)
    assert numbers(quality, np.exp(uncertainty) * 7 - 3) == before
    assert numbers(quality, np.arctan(uncertainty)) == before


@given(sentences, st.randoms(use_true_random=False))
def test_the_order_of_sentences_says_nothing(pairs, random) -> None:
    quality, uncertainty = arrays(pairs)
    chosen = random.sample(range(len(pairs)), len(pairs))
    shuffled = numbers(quality[chosen], uncertainty[chosen])
    for name, value in numbers(quality, uncertainty).items():
        assert shuffled[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@given(sentences)
def test_bounds(pairs: list[tuple[float, float]]) -> None:
    quality, uncertainty = arrays(pairs)
    found = numbers(quality, uncertainty)
    best, worst = numbers(quality, -quality), numbers(quality, quality)
    for name in SHARES:
        assert -1e-12 <= found[name] <= 1.0 + 1e-12, name
    for name in RATIOS:
        assert found[name] is None or found[name] <= 1.0 + 1e-9, name
        assert best[name] is None or best[name] == pytest.approx(1.0), name
    assert found["prr"] >= -1.0 - 1e-9
    assert best["e_aurc"] == pytest.approx(0.0, abs=1e-12)
    for name, higher in (("r_auc", False), ("aurc", False), ("f1_auc", True)):
        low, high = (worst, best) if higher else (best, worst)
        assert low[name] - 1e-12 <= found[name] <= high[name] + 1e-12, name
    assert found["quality@1"] == pytest.approx(quality.mean())
    assert best["quality@0.5"] >= found["quality@0.5"] - 1e-9


@given(sentences)
def test_equal_scores_are_a_random_order(pairs: list[tuple[float, float]]) -> None:
    quality, _ = arrays(pairs)
    found = numbers(quality, np.zeros(len(quality)))
    errors = 1 - quality / 100
    assert found["r_auc"] == pytest.approx(errors.mean() / 2)
    assert found["aurc"] == pytest.approx(errors.mean())
    assert found["quality@0.5"] == pytest.approx(quality.mean())
    for name in RATIOS:
        assert found[name] is None or found[name] == pytest.approx(0.0, abs=1e-9)


@given(sentences)
def test_agreement_with_loops_without_ties(pairs: list[tuple[float, float]]) -> None:
    quality, uncertainty = arrays(pairs)
    uncertainty = uncertainty + np.linspace(0, 0.5, len(quality))  # no ties
    order = np.argsort(uncertainty)
    errors, acceptable = (1 - quality / 100)[order].tolist(), (quality >= 40)[order].tolist()
    found = numbers(quality, uncertainty)
    assert found["r_auc"] == pytest.approx(reference.retention_area(errors))
    assert found["aurc"] == pytest.approx(reference.risk_coverage_area(errors))
    assert found["f1_auc"] == pytest.approx(reference.f1_area(acceptable))
    assert found["f1_at_95"] == pytest.approx(reference.f1_at_95(acceptable))


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30),
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30),
)
def test_comparisons_mirror(one: list[float], two: list[float]) -> None:
    size = min(len(one), len(two))
    x, y = np.array(one[:size]), np.array(two[:size])
    there, back = compare(x[0], y[0], x, y, seed=0), compare(y[0], x[0], y, x, seed=0)
    assert there.difference.value == -back.difference.value
    assert there.p_value == back.p_value
    assert 1 / (size + 1) <= there.p_value <= 1.0
    same = compare(x[0], x[0], x, x, seed=0)
    assert (same.difference.value, same.p_value) == (0.0, 1.0)


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=20),
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=20),
)
def test_detection_is_compared_on_the_same_resamples(inside, outside) -> None:
    (a_in, b_in), (a_out, b_out) = np.array(inside).T, np.array(outside).T
    found = compare_detection(a_in, a_out, b_in, b_out, resamples=10)["auroc"]
    assert -1.0 <= found.difference.low <= found.difference.high <= 1.0
    # A monotone transform is the same measure.
    same = compare_detection(a_in, a_out, 2.0 * a_in, 2.0 * a_out, resamples=10)["auroc"]
    assert (same.difference.low, same.difference.high, same.p_value) == (0.0, 0.0, 1.0)
