from dataclasses import replace

import numpy as np
import pytest

import seqdistill
from seqdistill.assessment import (
    calibration,
    hypotheses_calibration,
    hypotheses_likelihood,
    likelihood,
)
from seqdistill.errors import InputError
from tests.reference import assessment as reference
from tests.reference.hypothesis_sets import make_hypotheses


def test_equal_width_agrees_with_loops() -> None:
    random = np.random.default_rng(0)
    confidence = np.r_[random.uniform(size=500), 0.0, 1.0, 0.2, 0.4]
    correct = random.uniform(size=504) < confidence**2
    for bins in (1, 5, 15):
        result = calibration(confidence, correct, binning="equal_width", bins=bins)
        expected = reference.expected_calibration_error(confidence, correct, bins)
        assert result.ece == pytest.approx(expected, abs=1e-12)
        assert result.count.sum() == result.n == 504


def test_equal_mass_bins_hold_equally_many() -> None:
    confidence = np.random.default_rng(1).uniform(size=150)
    result = calibration(confidence, np.ones(150), bins=15)
    assert result.count.tolist() == [10] * 15
    assert result.ece == pytest.approx(np.mean(1 - confidence))  # all right, none too confident
    assert (np.diff(result.confidence) > 0).all()


def test_equal_confidences_stay_together() -> None:
    confidence = np.array([0.5] * 6 + [0.9] * 4)
    correct = np.array([1, 1, 1, 0, 0, 0, 1, 1, 1, 1], dtype=bool)
    straight = calibration(confidence, correct, bins=5)
    reversed_ = calibration(confidence[::-1], correct[::-1], bins=5)
    assert straight.ece == reversed_.ece == pytest.approx(0.04)
    assert straight.count.tolist() == [6, 4]


def test_perfect_calibration_is_zero() -> None:
    for binning in ("equal_mass", "equal_width"):
        assert calibration([0.5, 0.5], [True, False], binning=binning).ece == 0.0


def test_likelihood_counts_tokens_and_sentences() -> None:
    result = likelihood([[-1.0, -2.0], [-3.0]])
    assert (result.nll, result.sentence_nll, result.n_tokens) == (2.0, 3.0, 3)
    assert result.perplexity == pytest.approx(np.exp(2.0))
    assert result.signature == (
        f"metric:nll|unit:nats|mean:tokens|eos:yes|n:3|sents:2|version:{seqdistill.__version__}"
    )


def test_from_forced_hypotheses() -> None:
    forced = make_hypotheses(20, forced=True)
    flat = np.concatenate([h.token_log_probs for h in forced])
    assert hypotheses_likelihood(forced).nll == pytest.approx(-flat.mean())
    result = hypotheses_calibration(forced)
    assert result.n == len(flat)
    assert result.signature == (
        f"metric:ece|confidence:max|norm:1|binning:equal_mass|bins:15|n:{len(flat)}|"
        f"version:{seqdistill.__version__}"
    )
    bare = [replace(h, token_confidence=None) for h in forced]
    assert hypotheses_calibration(bare) is None
    with pytest.raises(InputError, match="1 of 20 hypotheses lack"):
        hypotheses_calibration([bare[0], *forced[1:]])
    with pytest.raises(InputError, match="sentence 0 was searched for"):
        hypotheses_likelihood(make_hypotheses(2))
    with pytest.raises(InputError, match="at least one forced"):
        hypotheses_likelihood([])


@pytest.mark.parametrize(
    ("confidence", "correct", "settings", "message"),
    [
        ([], [], {}, "at least one value"),
        ([0.5], [True, False], {}, "one length"),
        ([1.5], [True], {}, r"must lie in \[0, 1\]"),
        ([0.5], [0.5], {}, "booleans"),
        ([0.5], [True], {"binning": "mass"}, "unknown binning 'mass'; there are equal_mass"),
        ([0.5], [True], {"bins": 0}, "at least one bin"),
    ],
)
def test_bad_calibration(confidence: list, correct: list, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibration(confidence, correct, **settings)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one sentence"),
        ([[-1.0], []], "sentence 1 has no tokens"),
        ([[float("nan")]], "not finite"),
        ([[0.5]], "must not exceed 0"),
    ],
)
def test_bad_likelihood(rows: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        likelihood(rows)
