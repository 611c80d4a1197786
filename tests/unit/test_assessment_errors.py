import numpy as np
import pytest
import sacrebleu

import seqdistill
from seqdistill.assessment import compare_numbers, detect_errors, reject, sentence_quality
from seqdistill.assessment.quality import sentence_signature
from seqdistill.assessment.retention import Groups, f1_area, f1_at, risk_coverage_area
from seqdistill.assessment.selective import (
    CorpusScore,
    bleu_counts,
    bleu_of_sums,
    corpus_score,
    kept_count,
)
from seqdistill.errors import InputError
from tests.reference import retention as reference

HYPOTHESES = ["The cat sat on the mat today .", "He said hello .", "Nothing alike", "yes indeed ."]
REFERENCES = ["The cat sat on a mat today .", "He said hello .", "Something else entirely", "yes ."]


def numbers(quality: list[float], uncertainty: list[float], **more: object) -> dict[str, float]:
    result = detect_errors(quality, {"u": uncertainty}, resamples=0, **more)["u"]
    return {name: number and number.value for name, number in result.numbers.items()}


def test_values_computed_by_hand() -> None:
    # Errors 0.0, 0.8, 0.5 from certain to uncertain; acceptable up to 0.5: yes, no, yes.
    found = numbers([100, 20, 50], [1.0, 2.0, 3.0], acceptable_error=0.5, coverages=(2 / 3, 1.0))
    assert found["r_auc"] == pytest.approx((0 + 0 + 0.8 + 1.3) / 3 / 4)
    assert found["aurc"] == pytest.approx((0 + 0.4 + 1.3 / 3) / 3)
    # The best order is 0.0, 0.5, 0.8.
    assert found["e_aurc"] == pytest.approx((0.4 - 0.25) / 3)
    random, oracle = 1.3 / 3 / 2, (0 + 0 + 0.5 + 1.3) / 3 / 4
    assert found["prr"] == pytest.approx((random - found["r_auc"]) / (random - oracle))
    # Mean quality of the first k: 100, 60, 170/3; at best 100, 75, 170/3; at random 170/3.
    mean = 170 / 3
    assert found["prr_lm_polygraph"] == pytest.approx((100 + 60 - 2 * mean) / (100 + 75 - 2 * mean))
    # int(0.5 · 3) = 1 rejection: only k = 3, where every order is the same.
    assert found["prr_lm_polygraph_0.5"] is None
    # F1 = 2 hits/(k + 2): 0, 2/3, 2/4, 4/5 at 0, 1/4, 2/4, 3/4.
    assert found["f1_auc"] == pytest.approx((2 / 3 + 1 / 2 + 4 / 5 / 2) / 4)
    assert found["f1_at_95"] == pytest.approx(4 / 5)  # index int(0.95 · 4) = 3
    assert found["quality@0.666667"] == pytest.approx(60)
    assert found["quality@1"] == pytest.approx(mean)


@pytest.mark.parametrize("seed", range(4))
def test_ties_are_expectations_over_their_orders(seed: int) -> None:
    random = np.random.default_rng(seed)
    quality = random.integers(0, 101, size=7).astype(float)
    quality[:2] = 0.0, 100.0  # both classes
    uncertainty = random.integers(0, 3, size=7).astype(float).tolist()
    errors, acceptable = 1 - quality / 100, (quality >= 40).astype(float)
    found = numbers(quality.tolist(), uncertainty)
    for name, metric, values in (
        ("r_auc", reference.retention_area, errors),
        ("aurc", reference.risk_coverage_area, errors),
        ("f1_auc", reference.f1_area, acceptable),
        ("f1_at_95", reference.f1_at_95, acceptable),
    ):
        expected = reference.expectation(metric, values.tolist(), uncertainty)
        assert found[name] == pytest.approx(expected, abs=1e-12), name
    best = reference.risk_coverage_area(sorted(errors.tolist()))
    assert found["e_aurc"] == pytest.approx(found["aurc"] - best, abs=1e-12)
    for name, rejected in (("prr_lm_polygraph", 1.0), ("prr_lm_polygraph_0.5", 0.5)):
        expected = reference.lm_polygraph_ratio(quality.tolist(), uncertainty, rejected)
        assert found[name] == pytest.approx(expected, abs=1e-12), name
    assert found["prr"] == pytest.approx(reject(quality, uncertainty, resamples=0).prr.value)


def test_oracle_is_1_and_equal_scores_are_0() -> None:
    quality = np.random.default_rng(0).uniform(0, 100, size=50)
    for scores, ratio in ((-quality, 1.0), (np.ones(50), 0.0)):
        found = numbers(quality, scores)
        for name in ("prr", "prr_lm_polygraph", "prr_lm_polygraph_0.5"):
            assert found[name] == pytest.approx(ratio, abs=1e-12)
    assert numbers(quality, quality)["prr"] == pytest.approx(-1.0)
    assert numbers(quality, -quality)["e_aurc"] == pytest.approx(0.0, abs=1e-15)
    assert numbers(quality, np.ones(50))["aurc"] == pytest.approx(1 - quality.mean() / 100)


def test_random_orders_are_about_0() -> None:
    random = np.random.default_rng(1)
    quality = random.uniform(0, 100, size=40)
    scores = {str(i): random.normal(size=40) for i in range(200)}
    found = detect_errors(quality, scores, coverages=(), resamples=0)
    for name in ("prr", "prr_lm_polygraph"):
        values = [result.numbers[name].value for result in found.values()]
        assert abs(np.mean(values)) < 4 * np.std(values) / 200**0.5
    areas = [result.numbers["r_auc"].value for result in found.values()]
    assert np.mean(areas) == pytest.approx(np.mean(1 - quality / 100) / 2, rel=0.02)


def test_bootstrap_agrees_with_resampled_sentences() -> None:
    random = np.random.default_rng(4)
    quality = random.uniform(0, 100, size=30).round(-1)
    uncertainty = (-quality / 100 + random.normal(size=30) * 0.4).round(1)
    counts = random.integers(1, 9, size=(30, 10)).astype(float)

    def corpus(rows: object) -> CorpusScore:
        return CorpusScore("bleu", counts[rows], bleu_of_sums)

    result = detect_errors(
        quality,
        {"u": uncertainty},
        corpus=corpus(slice(None)),
        coverages=(0.5,),
        resamples=40,
        seed=9,
    )["u"]
    draws = np.random.default_rng([9, 0]).integers(0, 30, size=(40, 30))
    for row, drawn in enumerate(draws):
        slow = detect_errors(
            quality[drawn], {"u": uncertainty[drawn]}, corpus=corpus(drawn), coverages=(0.5,),
            resamples=0,
        )["u"]  # fmt: skip
        for name, number in slow.numbers.items():
            assert result.replicates[name][row] == pytest.approx(number.value, abs=1e-12), name
    low, high = np.quantile(result.replicates["r_auc"], [0.025, 0.975])
    area = result.numbers["r_auc"]
    assert (area.low, area.high) == (pytest.approx(low), pytest.approx(high))


def test_paired_comparison() -> None:
    random = np.random.default_rng(5)
    quality = random.uniform(0, 100, size=300)
    noise = random.normal(size=300)
    scores = {"good": 10 * noise - quality, "bad": 200 * noise - quality}
    scores["same"] = scores["good"].copy()
    found = detect_errors(quality, scores, resamples=200, seed=1)
    better = compare_numbers(found["good"], found["bad"])
    assert better["prr"].difference.low > 0.0
    assert better["prr"].p_value == pytest.approx(1 / 201)
    assert better["r_auc"].difference.high < 0.0
    assert better["quality@1"].difference.value == 0.0
    assert better["quality@1"].p_value == 1.0
    same = compare_numbers(found["good"], found["same"])
    assert all(comparison.difference.value == 0.0 for comparison in same.values())
    assert all(comparison.p_value == 1.0 for comparison in same.values())
    mirrored = compare_numbers(found["bad"], found["good"])
    assert mirrored["prr"].difference.value == -better["prr"].difference.value
    assert mirrored["prr"].p_value == better["prr"].p_value
    assert "test:paired-bootstrap|sides:2|bs:200|rs:1" in better["prr"].signature


def test_null_differences_are_rarely_significant() -> None:
    """Two measures that are equally good: 5 % of the tests may find a difference, not 20 %."""
    random = np.random.default_rng(6)
    below = 0
    for seed in range(60):
        quality = random.uniform(0, 100, size=80)
        one, two = (-quality + 40 * random.normal(size=80) for _ in range(2))
        found = detect_errors(
            quality, {"one": one, "two": two}, coverages=(), resamples=200, seed=seed
        )
        below += compare_numbers(found["one"], found["two"])["prr"].p_value < 0.05
    assert below <= 9  # P(more | rate 5 %) < 0.1 %


def test_equal_errors_have_no_ratio() -> None:
    values = Groups(np.array([1.0, 2.0])).retained(np.array([0.3, 0.3]))
    assert risk_coverage_area(values) == pytest.approx(0.3)
    nothing = Groups(np.array([1.0, 2.0])).retained(np.zeros(2))
    assert np.isnan(f1_area(nothing)).all()
    assert np.isnan(f1_at(nothing)).all()


def test_selective_bleu_is_sacrebleus_of_what_is_kept() -> None:
    corpus = corpus_score("bleu", HYPOTHESES, REFERENCES)
    quality = sentence_quality(HYPOTHESES, REFERENCES, metric="bleu")
    uncertainty = [0.1, 0.4, 0.9, 0.2]
    result = detect_errors(
        quality, {"u": uncertainty}, corpus=corpus, coverages=(0.5, 1.0), resamples=0
    )["u"]
    for coverage, kept in (("0.5", [0, 3]), ("1", [0, 1, 2, 3])):
        expected = sacrebleu.corpus_bleu(
            [HYPOTHESES[i] for i in kept], [[REFERENCES[i] for i in kept]]
        ).score
        assert result.numbers[f"bleu@{coverage}"].value == pytest.approx(expected)


@pytest.mark.parametrize("pick", [[0], [1], [2], [3], [0, 1], [1, 2, 3], [0, 0, 2, 3]])
def test_bleu_of_sums_is_sacrebleus(pick: list[int]) -> None:
    sums = bleu_counts(HYPOTHESES, REFERENCES)[pick].sum(axis=0)
    hypotheses, references = ([texts[i] for i in pick] for texts in (HYPOTHESES, REFERENCES))
    expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert bleu_of_sums(sums[None])[0] == pytest.approx(expected, abs=1e-9)


def test_error_rates() -> None:
    found = sentence_quality(HYPOTHESES, REFERENCES, metric="wer")
    assert found == pytest.approx([100 - 100 / 8, 100, 0, 100 - 100 / 2])
    found = sentence_quality(HYPOTHESES, REFERENCES, metric="ter")
    expected = [
        100 - sacrebleu.sentence_ter(h, [r]).score
        for h, r in zip(HYPOTHESES, REFERENCES, strict=True)
    ]
    assert found == pytest.approx(expected)
    assert sentence_quality(["a b c"], ["a"], metric="wer")[0] == -100.0


def test_signatures_say_how() -> None:
    result = detect_errors(
        [1.0, 90.0],
        {"joint_total_uncertainty_ep": [2.0, 1.0]},
        coverages=(0.5,),
        quality_signature=sentence_signature("chrf"),
        resamples=0,
    )["joint_total_uncertainty_ep"]
    head = "measure:joint_total_uncertainty_ep|est:joint|comb:ep|norm:length|nbest:1"
    quality = (
        f"quality:[nrefs:1;case:mixed;eff:yes;nc:6;nw:0;space:no;version:{sacrebleu.__version__}]"
    )
    tail = f"n:2|bs:no|version:{seqdistill.__version__}"
    assert result.signature_of("f1_at_95") == (
        f"{head}|metric:f1_at_95|def:shifts|ties:shared|acceptable:0.6|{quality}|{tail}"
    )
    assert result.signature_of("quality@0.5") == (
        f"{head}|metric:selective_quality|coverage:0.5|ties:shared|{quality}|{tail}"
    )
    record = result.to_dict()
    assert record["numbers"]["prr"]["signature"] == result.signature_of("prr")
    assert "unit:words" in sentence_signature("wer")
    assert "tok:tercom" in sentence_signature("ter")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acceptable_error": 0.0}, "must lie between 0 and 1"),
        ({"acceptable_error": 1.0}, "must lie between 0 and 1"),
        ({"acceptable_error": 60.0}, "it is a share"),
        ({"acceptable_error": 0.95}, "every sentence has an error of at most 0.95"),
        ({"acceptable_error": 0.05}, "no sentence has an error of at most 0.05"),
        ({"coverages": (0.0,)}, "a coverage must lie above 0"),
        ({"coverages": (1.2,)}, "a coverage must lie above 0"),
        ({"resamples": -1}, "0 or more"),
        ({"uncertainty": {"u": [1.0]}}, "one length, got quality: 2, u: 1"),
        ({"uncertainty": {"u": [1.0, float("nan")]}}, "u: 1 of 2 values are not finite"),
        ({"quality": [101.0, 0.0]}, "exceeds the best"),
    ],
)
def test_bad_input(changes: dict, message: str) -> None:
    given = {"quality": [10.0, 90.0], "uncertainty": {"u": [1.0, 2.0]}, "resamples": 0} | changes
    with pytest.raises(InputError, match=message):
        detect_errors(given.pop("quality"), given.pop("uncertainty"), **given)


def test_results_of_other_sentences_are_not_compared() -> None:
    one = detect_errors([10.0, 90.0], {"u": [1.0, 2.0]}, resamples=0)["u"]
    two = detect_errors([10.0, 90.0, 50.0], {"u": [1.0, 2.0, 3.0]}, resamples=0)["u"]
    with pytest.raises(InputError, match="needs one n of both, got 2 and 3"):
        compare_numbers(one, two)


def test_kept_counts() -> None:
    assert [kept_count(c, 10) for c in (0.1, 0.11, 0.3, 0.7, 1.0)] == [1, 2, 3, 7, 10]
