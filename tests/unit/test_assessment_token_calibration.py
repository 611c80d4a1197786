import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seqdistill.assessment import calibration, compare_numbers
from seqdistill.assessment.forced_sets import ForcedSet, read_forced, require_same_tokens
from seqdistill.assessment.token_calibration import assess_calibration
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, ModelInfo, write_hypotheses
from tests.reference.hypothesis_sets import make_hypotheses


def forced_set(folder: Path, hypotheses: list[Hypothesis], name: str = "forced") -> ForcedSet:
    path = folder / f"{name}.jsonl"
    write_hypotheses(path, hypotheses)
    return read_forced(path)


def two_sentences() -> list[Hypothesis]:
    """Tokens of confidence 0.9 0.9 | 0.6 0.6, right yes yes | no yes, p of 1/2 1/2 | 1/4 1."""
    model = ModelInfo("softmax", 1, "softmax")
    one, two = make_hypotheses(2, kind="softmax", forced=True)
    rows = []
    for hypothesis, log_probs, confidence, correct, entropy in (
        (one, [-math.log(2.0)] * 2, [0.9, 0.9], [True, True], [0.3, 0.5]),
        (two, [-math.log(4.0), 0.0], [0.6, 0.6], [False, True], [1.0, 0.2]),
    ):
        rows.append(
            replace(
                hypothesis,
                tokens=[5, 2],
                token_log_probs=log_probs,
                token_confidence=confidence,
                token_correct=correct,
                token_uncertainty={"total_uncertainty": entropy},
                model=model,
            )
        )
    return rows


def test_values_computed_by_hand(tmp_path: Path) -> None:
    found = assess_calibration(forced_set(tmp_path, two_sentences()), bins=2, resamples=0)
    values = {name: number.value for name, number in found.numbers.items()}
    assert values == pytest.approx(
        {
            "nll": math.log(2.0),  # (ln 2 + ln 2 + ln 4 + 0)/4
            "accuracy": 0.75,
            "confidence": 0.75,
            "overconfidence": 0.0,
            "ece_equal_mass": 0.1,  # |1 − 0.9|/2 + |0.5 − 0.6|/2
            "ece_equal_width": 0.0,  # one bin, [0.5, 1]: |0.75 − 0.75|
            "entropy_gap": math.log(2.0) - 0.5,
        }
    )
    assert found.numbers["nll"].low is None
    assert "metric:ece|binning:equal_mass|bins:2|norm:1|" in found.signatures["ece_equal_mass"]
    assert found.to_dict()["nll"]["signature"] == found.signatures["nll"]


def test_agrees_with_the_whole_set_and_with_resampled_files(tmp_path: Path) -> None:
    hypotheses = make_hypotheses(30, forced=True)
    forced = forced_set(tmp_path, hypotheses)
    found = assess_calibration(forced, resamples=10, seed=3)
    for binning in ("equal_mass", "equal_width"):
        expected = calibration(forced.confidence, forced.correct, binning=binning)
        assert found.numbers[f"ece_{binning}"].value == pytest.approx(expected.ece)
    draws = np.random.default_rng([3, 0]).integers(0, 30, size=(10, 30))
    for row, drawn in enumerate(draws):
        again = [replace(hypotheses[i], id=new) for new, i in enumerate(drawn)]
        slow = assess_calibration(forced_set(tmp_path, again, "again"), resamples=0).numbers
        for name in ("nll", "accuracy", "confidence", "overconfidence", "entropy_gap"):
            assert found.replicates[name][row] == pytest.approx(slow[name].value), name
        # Bins of equal width do not move with the resample.
        assert found.replicates["ece_equal_width"][row] == pytest.approx(
            slow["ece_equal_width"].value
        )


def test_the_entropy_gap_is_the_derivative_by_inverse_temperature(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(12, 7, dtype=torch.float64, generator=generator)
    tokens = torch.randint(0, 7, (12,), generator=generator)
    inverse = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    log_probs = torch.log_softmax(inverse * logits, dim=-1)
    picked = log_probs.gather(-1, tokens[:, None])[:, 0]
    (derivative,) = torch.autograd.grad(-picked.mean(), inverse)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    one = two_sentences()[0]
    hypothesis = replace(
        one,
        tokens=tokens.tolist(),
        token_log_probs=picked.tolist(),
        token_confidence=None,
        token_correct=None,
        token_uncertainty={"total_uncertainty": entropy.tolist()},
    )
    found = assess_calibration(forced_set(tmp_path, [hypothesis]), resamples=0)
    assert found.numbers["entropy_gap"].value == pytest.approx(derivative.item())
    assert found.numbers["accuracy"] is None
    assert found.numbers["ece_equal_mass"] is None


def test_intervals_cover(tmp_path: Path) -> None:
    """Perfectly calibrated predictions: the interval of the bias-free number covers 0, and the
    pivotal interval of the calibration error reaches below the value, which is noise."""
    random = np.random.default_rng(0)
    hypotheses = []
    for number in range(200):
        confidence = random.uniform(0.05, 1.0, size=10)
        hypotheses.append(
            replace(
                two_sentences()[0],
                id=number,
                tokens=list(range(10)),
                token_log_probs=np.log(confidence).tolist(),
                token_confidence=confidence.tolist(),
                token_correct=(random.random(10) < confidence).tolist(),
                token_uncertainty={},
            )
        )
    found = assess_calibration(forced_set(tmp_path, hypotheses), resamples=300).numbers
    assert found["overconfidence"].low < 0.0 < found["overconfidence"].high
    assert 0.0 <= found["ece_equal_mass"].low < 0.5 * found["ece_equal_mass"].value
    assert found["entropy_gap"] is None


def test_two_systems(tmp_path: Path) -> None:
    hypotheses = make_hypotheses(40, forced=True)
    worse = [replace(h, token_log_probs=[p - 0.5 for p in h.token_log_probs]) for h in hypotheses]
    systems = [forced_set(tmp_path, hypotheses, "a"), forced_set(tmp_path, worse, "b")]
    require_same_tokens(*systems)
    one, two = (assess_calibration(system, resamples=50) for system in systems)
    found = compare_numbers(two, one)
    assert found["nll"].difference.value == pytest.approx(0.5)
    assert found["nll"].difference.low == pytest.approx(0.5)
    assert found["nll"].p_value == pytest.approx(1 / 51)
    assert found["accuracy"].p_value == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forced": False}, "2: sentence 1 was searched for, not forced"),
        ({"tokens": []}, "2: no tokens"),
        ({"token_log_probs": [-1.0]}, "2: token_log_probs has 1 numbers for 2 tokens"),
        ({"token_log_probs": [-1.0, 0.5]}, r"2: token_log_probs must hold finite .*0.5 at token 1"),
        ({"token_log_probs": [float("nan"), -1.0]}, r"2: token_log_probs must .*nan at token 0"),
        ({"token_confidence": [0.5, 1.5]}, r"2: token_confidence must hold .*\[0, 1\], got 1.5"),
        ({"token_confidence": None}, "2: only some sentences have token_confidence"),
        ({"token_correct": [True]}, "2: token_correct has 1 numbers for 2 tokens"),
        ({"token_uncertainty": {}}, "2: token_uncertainty has ; other lines have total_uncert"),
        ({"token_uncertainty": {"total_uncertainty": [1.0, float("inf")]}}, "2: .*got inf at "),
        ({"token_uncertainty": {"total_uncertainty": ["x", 1.0]}}, "2: .*must be a list of"),
    ],
)  # fmt: skip
def test_unusable_lines_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    import json

    rows = [json.loads(h.to_json()) for h in two_sentences()]
    rows[1] |= changes
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=rf"bad\.jsonl:{message}"):
        read_forced(path)


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    one = forced_set(tmp_path, two_sentences(), "a")
    first, second = two_sentences()
    two = forced_set(tmp_path, [first, replace(second, tokens=[6, 2])], "b")
    with pytest.raises(InputError, match=r"a\.jsonl:2: sentence 1 has other tokens.*b\.jsonl:2"):
        require_same_tokens(one, two)
