"""Temperature scaling: fitted on one set, applied to another, against the whole distributions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.interpolate
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdistill.assessment import compare_numbers
from seqdistill.assessment.forced_sets import ForcedSet, read_forced
from seqdistill.assessment.temperature import at_temperature, fit_temperature, spline_weights
from seqdistill.assessment.token_calibration import assess_calibration
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, ModelInfo, write_hypotheses
from seqdistill.uncertainty.second_reading import DEFAULT_TEMPERATURES
from tests.reference.second_readings import tempered
from tests.reference.sharpened import Sharpened


def forced_set(folder: Path, hypotheses: list[Hypothesis], name: str = "valid") -> ForcedSet:
    path = folder / f"{name}.jsonl"
    write_hypotheses(path, hypotheses)
    return read_forced(path)


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 1.6])
def test_the_fit_is_that_of_the_whole_distributions(tmp_path: Path, sharpness: float) -> None:
    made = Sharpened(100, sharpness)
    found = fit_temperature(forced_set(tmp_path, made.hypotheses()), resamples=0)
    exact = scipy.optimize.minimize_scalar(made.nll, bounds=(0.5, 2.0), options={"xatol": 1e-7})
    assert found.value == pytest.approx(exact.x, abs=2e-4)
    assert found.nll_after == pytest.approx(made.nll(found.value), abs=1e-5)
    assert found.nll_before == pytest.approx(made.nll(1.0))
    assert found.nll_after <= found.nll_before


def test_intervals_cover_the_true_temperature(tmp_path: Path) -> None:
    covered = 0
    for seed in range(30):
        made = Sharpened(40, 1.3, seed=seed, V=60).hypotheses()
        found = fit_temperature(forced_set(tmp_path, made), resamples=100).temperature
        covered += found.low < 1.3 < found.high
    assert covered >= 24  # of 28.5 expected; fewer in one of 2,000 such experiments


def test_the_interval_is_that_of_fits_on_sets_drawn_again(tmp_path: Path) -> None:
    hypotheses = Sharpened(20, 1.3).hypotheses()
    found = fit_temperature(forced_set(tmp_path, hypotheses), resamples=6, seed=4)
    draws = np.random.default_rng([4, 0]).integers(0, 20, size=(6, 20))
    again = [
        fit_temperature(
            forced_set(tmp_path, [replace(hypotheses[i], id=k) for k, i in enumerate(drawn)]),
            resamples=0,
        ).value
        for drawn in draws
    ]
    low, high = np.quantile(again, [0.025, 0.975])
    assert (found.temperature.low, found.temperature.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("temperature", [DEFAULT_TEMPERATURES[3], 1.0, 0.53, 1.1234, 1.7])
def test_references_at_a_temperature(tmp_path: Path, temperature: float) -> None:
    made = Sharpened(5, 1.4)
    found = at_temperature(forced_set(tmp_path, made.hypotheses()), temperature)
    is_recorded = temperature in DEFAULT_TEMPERATURES
    for row, token in enumerate(made.tokens.tolist()):
        expected = tempered(made.log_probs[row].exp().tolist(), temperature)
        error = 1e-7 if is_recorded else 1e-4  # of the interpolation
        assert found.log_probs[row] == pytest.approx(np.log(expected[token]), abs=error)
        assert found.confidence is not None
        assert found.confidence[row] == pytest.approx(max(expected), abs=error)
    assert found.correct is not None
    assert found.temperatures is None


@given(st.integers(0, 100), st.integers(4, 12))
@settings(max_examples=20, deadline=None)
def test_the_spline_is_scipys(seed: int, K: int) -> None:
    random = np.random.default_rng(seed)
    nodes = np.cumsum(random.uniform(0.1, 1.0, size=K))
    points = random.uniform(nodes[0], nodes[-1], size=7)
    values = random.normal(size=K)
    expected = scipy.interpolate.CubicSpline(nodes, values)(points)
    np.testing.assert_allclose(spline_weights(nodes, points) @ values, expected, atol=1e-9)


def test_calibration_before_and_after(tmp_path: Path) -> None:
    fitted = fit_temperature(
        forced_set(tmp_path, Sharpened(150, 1.6, seed=1).hypotheses()), resamples=0
    )
    made = Sharpened(150, 1.6, seed=2)
    test = forced_set(tmp_path, made.hypotheses(), "test")
    before = assess_calibration(test, resamples=40)
    after = assess_calibration(test, resamples=40, temperature=fitted)
    assert after.numbers["nll"].value == pytest.approx(made.nll(fitted.value), abs=1e-5)
    change = compare_numbers(after, before)
    for name in ("nll", "ece_equal_mass", "ece_equal_width"):
        assert change[name].difference.high < 0.0, name
        assert change[name].p_value == pytest.approx(1 / 41)
    assert change["accuracy"].difference.value == 0.0
    assert after.numbers["entropy_gap"] is None
    where = f"|T:{fitted.value:.4f}|fit:[nll;valid.jsonl;n:1200;sents:150]|"
    assert where in after.signatures["ece_equal_mass"]
    assert where in fitted.signature
    assert "|T:" not in before.signatures["nll"]


def test_a_temperature_of_something_else_is_refused(tmp_path: Path) -> None:
    valid = forced_set(tmp_path, Sharpened(10, 1.2).hypotheses())
    fitted = fit_temperature(valid, resamples=0)
    with pytest.raises(InputError, match="fitted on the set that is assessed"):
        assess_calibration(valid, temperature=fitted)
    other = [
        replace(h, model=ModelInfo("ensemble", 5, "pe")) for h in Sharpened(10, 1).hypotheses()
    ]
    with pytest.raises(InputError, match=r"valid\.jsonl is of one ordinary model, .*ensemble of 5"):
        assess_calibration(forced_set(tmp_path, other, "test"), temperature=fitted)


def test_temperatures_that_are_missing_or_do_not_reach(tmp_path: Path) -> None:
    made = Sharpened(40, 1.6)
    for temperatures, message in (
        ((), r"valid\.jsonl:1: no tempered\.temperatures; score the references with"),
        ((0.5, 1.0, 2.0), "scored with 2 temperatures beside 1"),
        ((0.5, 0.7, 0.8, 1.0, 1.1), "still rises at the highest temperature, 1.1"),
        ((1.0, 1.9, 2.0, 2.5), "scored with 3 temperatures"),
    ):
        valid = forced_set(tmp_path, made.hypotheses(temperatures))
        if temperatures == (1.0, 1.9, 2.0, 2.5):
            assert 1.4 < fit_temperature(valid, resamples=0).value < 1.8
            continue
        with pytest.raises(InputError, match=message):
            fit_temperature(valid, resamples=0)
    only = forced_set(tmp_path, made.hypotheses((1.6,)))
    assert at_temperature(only, 1.6).n == 40
    with pytest.raises(InputError, match=r"from 1 to 1.6, and 2 is wanted"):
        at_temperature(only, 2.0)
    with pytest.raises(InputError, match="1 temperatures beside 1"):
        at_temperature(only, 1.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tempered": None}, "2: other tempered.temperatures than .*:1"),
        ({"temperatures": [0.5, 1.0]}, "2: other tempered.temperatures"),
        ({"token_log_partitions": [[0.0]]}, "2: tempered.token_log_partitions must be lists"),
        ({"token_log_partitions": [[0.0], [0.0], [0.0]]}, "2: .* has 1 numbers for 8 tokens"),
        ({"all": [1.0, 0.5, 2.0]}, "1: tempered.temperatures: expected them in ascending order"),
        ({"all": [0.0, 0.5, 2.0]}, "1: tempered.temperatures: expected temperatures above 0"),
        ({"all": ["x", 0.5, 2.0]}, "1: tempered.temperatures: could not convert"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    rows = [json.loads(h.to_json()) for h in Sharpened(2, 1.0).hypotheses((0.5, 1.0, 2.0))]
    if "tempered" in changes:
        rows[1] |= changes
    elif "all" in changes:
        for row in rows:
            row["tempered"]["temperatures"] = changes["all"]
    else:
        rows[1]["tempered"] |= changes
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=rf"bad\.jsonl:{message}"):
        read_forced(path)
