"""The threshold of the out-of-domain alarm keeps its promise on the sentences it was set on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdistill.assessment.threshold import ood_threshold
from seqdistill.errors import InputError


@given(
    st.lists(st.floats(-10, 10) | st.integers(0, 3).map(float), min_size=1, max_size=60),
    st.floats(0, 0.99),
)
def test_alarms_are_at_most_the_rate_and_the_threshold_is_the_smallest(
    scores: list[float], rate: float
) -> None:
    threshold = ood_threshold(scores, rate)
    allowed = rate * len(scores) * (1 + 1e-12)
    assert sum(score > threshold for score in scores) <= allowed
    lower = [score for score in scores if score < threshold]
    if lower:
        assert sum(score > max(lower) for score in scores) > allowed


@pytest.mark.parametrize(("rate", "alarms"), [(0.0, 0), (0.05, 5), (0.29, 29), (0.5, 50)])
def test_distinct_scores_use_the_rate_up(rate: float, alarms: int) -> None:
    scores = [float(n) for n in range(100)]
    threshold = ood_threshold(scores, rate)
    assert sum(score > threshold for score in scores) == alarms


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_out_of_range(rate: float) -> None:
    with pytest.raises(InputError, match="false-positive rate"):
        ood_threshold([1.0], rate)


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [float("inf")]])
def test_scores_that_say_nothing(scores: list[float]) -> None:
    with pytest.raises(InputError, match="in-domain scores"):
        ood_threshold(scores, 0.05)
