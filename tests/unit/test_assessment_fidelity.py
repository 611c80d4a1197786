import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from seqdistill.assessment import compare_numbers
from seqdistill.assessment.fidelity import assess_fidelity, counterpart
from seqdistill.assessment.forced_sets import ForcedSet, read_forced
from seqdistill.errors import InputError
from seqdistill.hypotheses import Against, Hypothesis, ModelInfo, write_hypotheses
from tests.reference.hypothesis_sets import make_hypotheses


def forced_set(folder: Path, hypotheses: list[Hypothesis], name: str) -> ForcedSet:
    path = folder / f"{name}.jsonl"
    write_hypotheses(path, hypotheses)
    return read_forced(path)


def noisy(hypotheses: list[Hypothesis], seed: int, noise: float = 0.3) -> list[Hypothesis]:
    """The same tokens as another system would score them; some measures tie."""
    random = np.random.default_rng(seed)
    changed = []
    for h in hypotheses:
        factor = np.exp(random.normal(0, noise, size=len(h.tokens)))
        changed.append(
            replace(
                h,
                token_log_probs=(np.array(h.token_log_probs) * factor).tolist(),
                token_uncertainty={
                    name: (np.array(values) * factor).round(1).tolist()
                    for name, values in h.token_uncertainty.items()
                },
                uncertainty={n: v * float(factor.mean()) for n, v in h.uncertainty.items()},
            )
        )
    return changed


def test_values_computed_by_hand(tmp_path: Path) -> None:
    one = replace(
        make_hypotheses(1, kind="softmax", forced=True)[0],
        tokens=[5, 6, 2],
        token_log_probs=np.log([0.5, 0.25, 0.5]).tolist(),
        token_confidence=[0.5, 0.4, 0.5],
        token_correct=[True, False, False],
        token_uncertainty={"total_uncertainty": [1.0, 3.0, 2.0]},
    )
    other = replace(
        one,
        token_log_probs=np.log([0.25, 0.5, 0.5]).tolist(),
        token_confidence=[0.6, 0.5, 0.4],
        token_correct=[True, True, False],
        token_uncertainty={"total_uncertainty": [1.0, 2.0, 3.0]},
    )
    found = assess_fidelity(
        forced_set(tmp_path, [one], "student"), forced_set(tmp_path, [other], "ensemble"),
        resamples=0,
    )  # fmt: skip
    values = {name: number and number.value for name, number in found.numbers.items()}
    coin = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    coin += 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert values == {
        "log_prob_gap": pytest.approx(2 * math.log(2) / 3),
        "nll_difference": pytest.approx(0.0),
        "confidence_gap": pytest.approx(0.1),
        "kl_lower_bound": pytest.approx(coin / 3),
        "top1_agreement_low": pytest.approx(1 / 3),  # both right; right and wrong; both wrong
        "top1_agreement_high": pytest.approx(2 / 3),
        "spearman_token:total_uncertainty": pytest.approx(0.5),
        "spearman_sequence:total_uncertainty": None,  # of one sentence
        "spearman_sequence:joint_total_uncertainty_pe": None,
    }


def test_the_same_system_is_like_itself(tmp_path: Path) -> None:
    forced = forced_set(tmp_path, make_hypotheses(20, forced=True), "a")
    found = assess_fidelity(forced, forced, resamples=20)
    for name, number in found.numbers.items():
        if name.startswith("spearman"):
            assert (number.value, number.low, number.high) == pytest.approx((1.0, 1.0, 1.0))
        elif name == "top1_agreement_high":
            assert number.value == 1.0
        elif name != "top1_agreement_low":
            assert (number.value, number.low, number.high) == (0.0, 0.0, 0.0)


def test_agrees_with_scipy_on_resampled_files(tmp_path: Path) -> None:
    hypotheses = make_hypotheses(25, forced=True)
    others = noisy(hypotheses, 1)
    mine, theirs = (forced_set(tmp_path, h, n) for h, n in ((others, "s"), (hypotheses, "e")))
    found = assess_fidelity(mine, theirs, resamples=8, seed=5)
    draws = np.random.default_rng([5, 0]).integers(0, 25, size=(8, 25))
    for row, drawn in [(None, np.arange(25)), *enumerate(draws)]:
        tokens = np.concatenate([np.flatnonzero(mine.sentence == i) for i in drawn])
        for name in ("spearman_token:epkl", "spearman_token:total_uncertainty"):
            measure = name.partition(":")[2]
            x, y = mine.uncertainty[measure][tokens], theirs.uncertainty[measure][tokens]
            expected = scipy.stats.spearmanr(x, y).statistic
            value = found.numbers[name].value if row is None else found.replicates[name][row]
            assert value == pytest.approx(expected, abs=1e-12)
        pairs = np.array([[h[i].uncertainty["epkl"] for i in drawn] for h in (others, hypotheses)])
        value = (
            found.numbers["spearman_sequence:epkl"].value
            if row is None
            else found.replicates["spearman_sequence:epkl"][row]
        )
        assert value == pytest.approx(scipy.stats.spearmanr(*pairs).statistic, abs=1e-12)
        gap = np.abs(mine.log_probs - theirs.log_probs)[tokens].mean()
        value = (
            found.numbers["log_prob_gap"].value
            if row is None
            else found.replicates["log_prob_gap"][row]
        )
        assert value == pytest.approx(gap)


def test_the_bound_is_below_the_divergence(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    p, q = random.dirichlet(np.full(9, 0.5), size=40), random.dirichlet(np.full(9, 0.5), size=40)
    tokens = random.integers(0, 9, size=40)
    base = make_hypotheses(1, kind="softmax", forced=True)[0]
    rows = [
        replace(
            base,
            tokens=tokens.tolist(),
            token_log_probs=np.log(x[np.arange(40), tokens]).tolist(),
            token_confidence=x.max(1).tolist(),
            token_correct=(x.argmax(1) == tokens).tolist(),
            token_uncertainty={},
        )
        for x in (q, p)
    ]
    found = assess_fidelity(
        forced_set(tmp_path, [rows[0]], "s"), forced_set(tmp_path, [rows[1]], "e"), resamples=0
    ).numbers
    divergence = (p * np.log(p / q)).sum(1).mean()
    assert 0.1 * divergence < found["kl_lower_bound"].value < divergence
    agreement = (p.argmax(1) == q.argmax(1)).mean()
    assert found["top1_agreement_low"].value <= agreement <= found["top1_agreement_high"].value


def compared(
    hypotheses: list[Hypothesis], against: ModelInfo, divergence: float
) -> list[Hypothesis]:
    """As if scored against another system: KL of ``divergence``, 2 and 3 times it, … a sentence."""
    return [
        replace(
            h,
            against=Against(
                against,
                [divergence * (k + 1) for k in range(len(h.tokens))],
                [k % 2 == 0 for k in range(len(h.tokens))],
            ),
        )
        for h in hypotheses
    ]


def test_exact_numbers_take_the_place_of_bounds(tmp_path: Path) -> None:
    hypotheses = make_hypotheses(30, forced=True)
    ensemble = forced_set(tmp_path, hypotheses, "e")
    student = forced_set(tmp_path, compared(noisy(hypotheses, 1), hypotheses[0].model, 0.1), "s")
    found = assess_fidelity(student, ensemble, measures=(), resamples=20)
    assert list(found.numbers) == [
        "log_prob_gap", "nll_difference", "confidence_gap", "kl_divergence", "top1_agreement",
    ]  # fmt: skip
    lengths = [len(h.tokens) for h in hypotheses]
    kl = sum(0.1 * n * (n + 1) / 2 for n in lengths) / sum(lengths)
    assert found.numbers["kl_divergence"].value == pytest.approx(kl)
    assert found.numbers["kl_divergence"].low < kl < found.numbers["kl_divergence"].high
    agreed = sum((n + 1) // 2 for n in lengths) / sum(lengths)
    assert found.numbers["top1_agreement"].value == pytest.approx(agreed)
    assert "def:KL(p_ref‖p)|unit:nats|predictive:pe" in found.signatures["kl_divergence"]
    whole = assess_fidelity(student, ensemble, measures={"epkl"}, resamples=0).numbers
    assert [name for name in whole if ":" in name] == [
        "spearman_token:epkl",
        "spearman_sequence:epkl",
    ]


def test_scored_against_another_system(tmp_path: Path) -> None:
    hypotheses = make_hypotheses(3, forced=True)
    ensemble = forced_set(tmp_path, hypotheses, "e")
    other = forced_set(tmp_path, compared(hypotheses, ModelInfo("ensemble", 2, "ep"), 0.1), "s")
    with pytest.raises(InputError, match=r"s\.jsonl was scored against ensemble of 2, expectation"):
        assess_fidelity(other, ensemble, resamples=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"against": None}, "2: scored against another system than .*:1, or only one"),
        ({"against": {"token_kl_divergence": [0.1]}}, "2: the field against is malformed"),
        ({"kl": [0.1]}, r"2: against.token_kl_divergence has 1 numbers for \d+ tokens"),
        ({"kl": "negative"}, r"2: against.token_kl_divergence must hold .*\[0, inf\], got -1"),
        ({"kl": "x"}, "2: against.token_kl_divergence must be a list of numbers"),
        ({"model": "ensemble"}, "2: the field against.model is malformed: expected an object"),
    ],
)
def test_malformed_comparisons_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    hypotheses = compared(make_hypotheses(2, forced=True), ModelInfo("ensemble", 5, "pe"), 0.1)
    rows = [json.loads(h.to_json()) for h in hypotheses]
    values = changes.get("kl")
    if values == "negative":
        values = [-1.0] * len(rows[1]["tokens"])
    if values is not None:
        rows[1]["against"]["token_kl_divergence"] = values
    elif "model" in changes:
        rows[1]["against"] |= changes
    else:
        rows[1] |= changes
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=rf"bad\.jsonl:{message}"):
        read_forced(path)


def test_certain_tokens_are_finite(tmp_path: Path) -> None:
    base = make_hypotheses(1, kind="softmax", forced=True)[0]
    rows = [
        replace(
            base,
            tokens=[4, 5, 2],
            token_log_probs=log_probs,
            token_confidence=None,
            token_correct=None,
            token_uncertainty={},
        )
        for log_probs in ([0.0, 1e-7, -700.0], [-1.0, 0.0, 0.0])
    ]
    found = assess_fidelity(
        forced_set(tmp_path, [rows[0]], "s"), forced_set(tmp_path, [rows[1]], "e"), resamples=5
    ).numbers
    assert math.isfinite(found["kl_lower_bound"].value)
    assert found["kl_lower_bound"].value > 700 / 3
    assert found["confidence_gap"] is None
    assert found["top1_agreement_low"] is None


def test_what_only_a_student_has_is_compared_with_its_counterpart(tmp_path: Path) -> None:
    names = {"total_uncertainty", "joint_total_uncertainty_pe"}
    assert counterpart("total_uncertainty", names) == "total_uncertainty"
    assert counterpart("total_uncertainty_base", names) == "total_uncertainty"
    assert counterpart("inverse_precision", names) is None
    ensemble = make_hypotheses(12, forced=True)
    student = [
        replace(h, tokens=e.tokens, source=e.source, reference=e.reference)
        for h, e in zip(make_hypotheses(12, kind="dirichlet", forced=True), ensemble, strict=True)
        if len(h.tokens) == len(e.tokens)
    ]
    kept = {h.id for h in student}
    found = assess_fidelity(
        forced_set(tmp_path, student, "s"),
        forced_set(tmp_path, [e for e in ensemble if e.id in kept], "e"),
        resamples=0,
    )
    assert "spearman_token:total_uncertainty_base" in found.numbers
    assert "spearman_sequence:joint_total_uncertainty_base" in found.numbers
    assert "spearman_token:inverse_precision" not in found.numbers


def test_a_closer_student_is_found_closer(tmp_path: Path) -> None:
    hypotheses = make_hypotheses(60, forced=True)
    ensemble = forced_set(tmp_path, hypotheses, "e")
    near, far = (
        assess_fidelity(forced_set(tmp_path, noisy(hypotheses, 3, n), f"s{n}"), ensemble,
                        resamples=50)
        for n in (0.1, 1.0)
    )  # fmt: skip
    found = compare_numbers(near, far)
    assert found["log_prob_gap"].difference.high < 0.0
    assert found["spearman_token:epkl"].difference.low > 0.0
    assert found["spearman_token:epkl"].p_value == pytest.approx(1 / 51)


def test_other_texts_are_refused(tmp_path: Path) -> None:
    hypotheses = make_hypotheses(3, forced=True)
    one = forced_set(tmp_path, hypotheses, "a")
    shorter = [*hypotheses[:2], replace(hypotheses[2], id=7)]
    with pytest.raises(InputError, match=r"a\.jsonl:3: sentence 2 is not in .*b\.jsonl"):
        assess_fidelity(one, forced_set(tmp_path, shorter, "b"), resamples=0)
    with pytest.raises(InputError, match="0 or more"):
        assess_fidelity(one, one, resamples=-1)


def test_signatures_have_no_stray_bars(tmp_path: Path) -> None:
    forced = forced_set(tmp_path, make_hypotheses(3, forced=True), "a")
    found = assess_fidelity(forced, forced, resamples=5)
    assert found.signatures.keys() == found.numbers.keys()
    for signature in found.signatures.values():
        assert all(part.count(":") >= 1 for part in signature.split("|")), signature
        assert "bs:5|rs:0|ci:95|version:" in signature
