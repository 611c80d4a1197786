import numpy as np
import pytest

from seqdistill.assessment import auroc, compare, compare_detection, detect
from seqdistill.assessment.bootstrap import estimate, pivotal_estimate, tallies
from seqdistill.assessment.signatures import measure_fields, nested, sign
from seqdistill.errors import InputError


def test_intervals_are_percentiles() -> None:
    drawn = np.arange(101.0)
    found = estimate(7.0, drawn)
    assert (found.value, found.low, found.high) == pytest.approx((7.0, 2.5, 97.5))
    found = estimate(7.0, np.append(drawn, np.nan))  # where the number does not exist
    assert (found.low, found.high) == pytest.approx((2.5, 97.5))
    assert estimate(7.0, np.array([np.nan])).low is None
    found = pivotal_estimate(60.0, drawn, least=0.0)
    assert (found.low, found.high) == pytest.approx((120.0 - 97.5, 120.0 - 2.5))
    assert pivotal_estimate(3.0, drawn, least=0.0).low == 0.0
    assert pivotal_estimate(3.0, np.empty(0), least=0.0).high is None


def test_p_value_by_hand() -> None:
    # Differences 1, 3, 2, 2 stray from their mean 2 by 1, 1, 0, 0.
    first, second = np.array([1.0, 3.0, 2.0, 2.0]), np.zeros(4)
    assert compare(2.0, 0.0, first, second, seed=0).p_value == 1 / 5
    assert compare(1.0, 0.0, first, second, seed=0).p_value == 3 / 5
    assert compare(0.0, 0.0, first, second, seed=0).p_value == 1.0
    found = compare(2.0, 0.0, np.append(first, np.nan), np.zeros(5), seed=3)
    assert (found.resamples, found.p_value) == (4, 1 / 5)
    assert "bs:4|rs:3|ci:95" in found.signature
    none = compare(2.0, 0.5, np.empty(0), np.empty(0), seed=0)
    assert (none.difference.value, none.difference.low, none.p_value) == (1.5, None, None)
    assert "test:no|bs:no" in none.signature
    with pytest.raises(InputError, match="the same resamples of both, got 4 and 3"):
        compare(0.0, 0.0, first, np.zeros(3), seed=0)


def test_tallies_do_not_depend_on_how_they_are_cut() -> None:
    whole = np.concatenate(list(tallies(7, 20, 1)))
    cut = np.concatenate(list(tallies(7, 20, 1, chunk=21)))
    assert whole.shape == (20, 7)
    assert (whole.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(whole, cut)


def test_detection_of_two_systems_agrees_with_resampled_sentences() -> None:
    random = np.random.default_rng(0)
    first_in, first_out = random.normal(size=40), random.normal(1.0, size=30)
    second_in, second_out = (x + random.normal(size=len(x)) for x in (first_in, first_out))
    found = compare_detection(first_in, first_out, second_in, second_out, resamples=60, seed=4)
    inside = np.random.default_rng([4, 0]).integers(0, 40, size=(60, 40))
    outside = np.random.default_rng([4, 1]).integers(0, 30, size=(60, 30))
    slow = np.array(
        [
            auroc(first_in[i], first_out[o]) - auroc(second_in[i], second_out[o])
            for i, o in zip(inside, outside, strict=True)
        ]
    )
    difference = auroc(first_in, first_out) - auroc(second_in, second_out)
    one = found["auroc"]
    assert one.difference.value == pytest.approx(difference)
    assert (one.difference.low, one.difference.high) == pytest.approx(
        tuple(np.quantile(slow, [0.025, 0.975]))
    )
    strays = (np.abs(slow - slow.mean()) >= abs(difference)).sum()
    assert one.p_value == (1 + strays) / 61
    alone = detect(first_in, first_out, resamples=60, seed=4)
    assert one.first == alone.auroc.value
    with pytest.raises(InputError, match="the same in-domain sentences of both, got 40 and 39"):
        compare_detection(first_in, first_out, second_in[1:], second_out)


def test_fields() -> None:
    assert sign({"a": 1}).startswith("a:1|version:")
    assert nested("a:1|b:2") == "[a:1;b:2]"
    assert measure_fields(None) == {"measure": "scores"}
    joint = measure_fields("joint_total_uncertainty_ep")
    assert joint == {
        "measure": "joint_total_uncertainty_ep",
        "est": "joint",
        "comb": "ep",
        "norm": "length",
        "nbest": "1",
    }


def test_a_pivotal_difference_agrees_with_its_p_value() -> None:
    """A biased statistic: resamples stray around a mean that is not the observed difference."""
    random = np.random.default_rng(0)
    drawn = -1.0 + random.normal(0.0, 0.5, size=999)  # observed −2, resampled about −1
    percentile = compare(1.0, 3.0, drawn, np.zeros(999), seed=0)
    pivotal = compare(1.0, 3.0, drawn, np.zeros(999), seed=0, pivotal=True)
    assert percentile.p_value == pivotal.p_value < 0.01
    assert percentile.difference.high is not None
    assert percentile.difference.high > -0.2
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (pivotal.difference.low, pivotal.difference.high) == (-4.0 - high, -4.0 - low)
    assert "ci:95-pivotal" in pivotal.signature
    assert "ci:95|" in percentile.signature
