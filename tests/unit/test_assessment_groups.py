"""Changes of error and likeness by group, against values by hand and a slow form."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seqdistill.assessment.fidelity import assess_fidelity
from seqdistill.assessment.forced_sets import ForcedSet, forced_set
from seqdistill.assessment.group_errors import assess_group_errors
from seqdistill.assessment.group_fidelity import assess_group_fidelity
from seqdistill.assessment.groups import GroupOptions, make_grouping, read_groups
from seqdistill.assessment.hypothesis_files import HypothesisSet
from seqdistill.errors import InputError
from seqdistill.hypotheses import Against, Hypothesis
from tests.reference.groups import (
    changes_of_error,
    combined_error_variance,
    symmetric_distance_error,
)
from tests.reference.hypothesis_sets import make_hypotheses


def decoded(texts: list[str], references: list[str]) -> HypothesisSet:
    made = make_hypotheses(len(texts))
    pairs = zip(made, texts, references, strict=True)
    return HypothesisSet.of("a file", [replace(h, text=t, reference=r) for h, t, r in pairs])


REFERENCES = ["a b", "c d e"]
TEACHER = ["a x", "c d z"]
STUDENT = ["y x", "c d e z w v"]


def test_values_by_hand() -> None:
    student, teacher = decoded(STUDENT, REFERENCES), decoded(TEACHER, REFERENCES)
    found = assess_group_errors(student, teacher, GroupOptions(edges=(3.0,)), resamples=0)
    assert found.grouping.labels == ("up to 2", "3 or more")
    assert found.sentences == (1, 1)
    assert found.units == (2, 3)
    numbers = {name: value and value.value for name, value in found.numbers.numbers.items()}
    assert numbers["missed:up to 2"] == 1.0
    assert numbers["missed_reference:up to 2"] == 0.5
    assert numbers["missed_change:up to 2"] == 1.0
    assert numbers["missed_change:3 or more"] == -1.0
    assert numbers["false_change:up to 2"] == 1.0
    assert numbers["false_change:3 or more"] == 2.0
    assert numbers["combined_error_variance"] == pytest.approx(1.0 + 0.25)
    assert numbers["symmetric_distance_error"] == pytest.approx((0.0 + 3.0) / 2)
    record = json.loads(json.dumps(found.to_dict()))
    assert record["groups"][1]["false_change"]["value"] == 2.0
    assert record["signatures"]["missed_change"].startswith("metric:missed_change|match:bag")


def test_case_punctuation_and_order_are_no_errors_of_a_bag() -> None:
    teacher = decoded(["E, c D!", "x"], ["c d e", "y"])
    found = assess_group_errors(teacher, teacher, GroupOptions(edges=(2.0,)), resamples=0)
    missed = [found.of_group("missed", group) for group in (0, 1)]
    assert [value and value.value for value in missed] == [1.0, 0.0]
    # A group without errors of the reference system has no change, and one group no spread.
    assert found.of_group("missed_change", 1) is None
    assert found.numbers.numbers["combined_error_variance"] is None
    aligned = assess_group_errors(
        teacher, teacher, GroupOptions(edges=(2.0,)), matching="aligned", resamples=0
    )
    value = aligned.of_group("missed", 1)
    assert value is not None
    assert value.value == pytest.approx(1 / 3)


@pytest.mark.parametrize("by", ["length", "word", "rarest-word"])
def test_agrees_with_the_slow_form(by: str) -> None:
    student, teacher = (
        HypothesisSet.of(kind, made)
        for kind, made in (
            ("student", make_hypotheses(80, difficulty=0.5)), ("teacher", make_hypotheses(80))
        )
    )  # fmt: skip
    references = teacher.references()
    student = HypothesisSet.of(
        "student",
        [
            replace(h, reference=t.reference, source=t.source)
            for h, t in zip(student.hypotheses, teacher.hypotheses, strict=True)
        ],
    )
    words = ("said", "the", "a", "house", "tree", "small", "morning", "tom", "book", "window")
    counts = {word: place for place, word in enumerate(words)}
    options = GroupOptions(by, bins=4, training_text=counts)
    found = assess_group_errors(student, teacher, options, resamples=50)
    plain = [
        [text.lower() for text in texts]
        for texts in (
            [h.text for h in student.hypotheses], [h.text for h in teacher.hypotheses], references
        )
    ]  # fmt: skip
    expected = changes_of_error(plain[0], plain[1], plain[2], found.grouping.group)
    assert len(expected) == len(found.grouping.labels) > 1
    for group, (missed, false) in expected.items():
        for name, value in (("missed_change", missed), ("false_change", false)):
            number = found.of_group(name, group)
            assert number is not None
            assert number.value == pytest.approx(value)
            assert number.low is not None
            assert number.high is not None
            assert number.low <= value <= number.high
    for name, function in (
        ("combined_error_variance", combined_error_variance),
        ("symmetric_distance_error", symmetric_distance_error),
    ):
        number = found.numbers.numbers[name]
        assert number is not None
        assert number.value == pytest.approx(function(expected))
        assert number.low is not None
        assert number.low >= 0.0
        assert "ci:95-pivotal" in found.numbers.signatures[name]


def test_the_same_factor_everywhere_has_no_variance() -> None:
    references = ["a b", "c d e f"]
    teacher = decoded(["a x", "c d x y"], references)  # 1 and 2 missed, 1 and 2 false
    student = decoded(["z x", "w v x y"], references)  # 2 and 4 of both
    found = assess_group_errors(student, teacher, GroupOptions(edges=(3.0,)), resamples=0)
    for name in ("combined_error_variance", "symmetric_distance_error"):
        number = found.numbers.numbers[name]
        assert number is not None
        assert number.value == 0.0
    same = assess_group_errors(teacher, teacher, GroupOptions(edges=(3.0,)), resamples=0)
    assert same.numbers.numbers["combined_error_variance"] == same.of_group("false_change", 0)


# --- groups ------------------------------------------------------------------


def test_groups_by_length_and_rarity(tmp_path: Path) -> None:
    texts = ["one", "two words", "three short words", "three rare words", "a b c d"]
    hypotheses = decoded(texts, texts).hypotheses
    by_length = make_grouping(hypotheses, GroupOptions(bins=3))
    assert by_length.labels == ("up to 1", "2", "3 or more") or by_length.edges
    assert by_length.of_sentence is not None
    assert by_length.of_sentence.tolist() == sorted(by_length.of_sentence.tolist())
    assert set(by_length.of_sentence.tolist()) == set(range(len(by_length.labels)))
    assert make_grouping(hypotheses, GroupOptions(bins=1)).labels == ("all",)
    training = tmp_path / "train.txt"
    training.write_text("Three short words.\nthree SHORT, words!\nthree\n", encoding="utf-8")
    options = GroupOptions("rarest-word", edges=(1.0, 2.0), training_text=training)
    rarest = make_grouping(hypotheses, options)
    assert rarest.labels == ("0", "1", "2 or more")
    assert rarest.of_sentence is not None
    assert rarest.of_sentence.tolist() == [0, 0, 2, 0, 0]
    mean = make_grouping(hypotheses, replace(options, by="mean-word", edges=(0.5, 2.1)))
    assert mean.of_sentence is not None
    # (1·3·3)^(1/3) − 1 = 1.08 of "three rare words"; (4·3·3)^(1/3) − 1 = 2.3 of the one before
    assert mean.of_sentence.tolist()[2:4] == [2, 1]
    word = make_grouping(hypotheses, replace(options, by="word", edges=(1.0, 3.0)))
    assert [word.group(0, name) for name in ("nowhere", "words", "three")] == [0, 1, 2]


def test_given_groups_and_speakers(tmp_path: Path) -> None:
    made = make_hypotheses(3)
    made = [replace(h, source=f"utterance-{h.id}") for h in made]
    table = tmp_path / "groups.tsv"
    table.write_text("0\tnews\nutterance-1\tchat\n2\tnews\n", encoding="utf-8")
    assert read_groups(table, made) == ["news", "chat", "news"]
    grouping = make_grouping(made, GroupOptions("file", groups=table))
    assert grouping.labels == ("chat", "news")
    manifest = tmp_path / "test.tsv"
    rows = [f"utterance-{n}\ta.wav\t10\ttext\t{s}" for n, s in enumerate(("10", "9", "10"))]
    header = "id\taudio\tn_frames\ttgt_text\tspeaker"
    manifest.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    speakers = make_grouping(made, GroupOptions("file", groups=manifest))
    assert speakers.labels == ("9", "10")
    assert speakers.of_sentence is not None
    assert speakers.of_sentence.tolist() == [1, 0, 1]
    for text, message in (
        ("0\tnews\n", "sentence 1 .* in no group"),
        ("0 news\n", "groups.tsv:1: expected KEY<tab>GROUP"),
        ("0\ta\n0\tb\n", "groups.tsv:2: 0 has a group already"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_groups(table, made)
    manifest.write_text(f"{header}\nutterance-0\ta.wav\t10\ttext\t\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no speaker"):
        read_groups(manifest, made)


def test_bad_input(tmp_path: Path) -> None:
    student, teacher = decoded(STUDENT, REFERENCES), decoded(TEACHER, REFERENCES)
    for options, message in (
        (GroupOptions("size"), "expected groups by length"),
        (GroupOptions("file"), "need a file of groups"),
        (GroupOptions("word"), "training text"),
        (GroupOptions("word", training_text=tmp_path / "none"), "no such file"),
        (GroupOptions(edges=(2.0, 2.0)), "ascending numbers"),
        (GroupOptions(bins=0), "at least 1 group"),
        (GroupOptions(side="target"), "side reference or source"),
    ):
        with pytest.raises(InputError, match=message):
            assess_group_errors(student, teacher, options)
    with pytest.raises(InputError, match="other references"):
        assess_group_errors(student, decoded(TEACHER, ["a b", "c d f"]))
    with pytest.raises(InputError, match="matching bag or aligned"):
        assess_group_errors(student, teacher, matching="order")
    forced = HypothesisSet.of("scored", make_hypotheses(2, forced=True))
    with pytest.raises(InputError, match="was scored here"):
        assess_group_errors(forced, forced)
    with pytest.raises(InputError, match="groups by word are of words"):
        assess_group_fidelity(
            forced_set(forced), forced_set(forced), GroupOptions("word", training_text={})
        )


# --- scored texts ------------------------------------------------------------


def scorings() -> tuple[ForcedSet, ForcedSet]:
    """A student scored against its ensemble, and the ensemble."""
    teacher = make_hypotheses(30, forced=True)
    random = np.random.default_rng(3)
    student: list[Hypothesis] = []
    for h in teacher:
        size = len(h.tokens)
        against = Against(
            h.model, random.gamma(1.0, size=size).tolist(), (random.random(size) < 0.8).tolist()
        )
        student.append(
            replace(
                h,
                model=make_hypotheses(1, kind="dirichlet")[0].model,
                token_log_probs=(1.2 * np.array(h.token_log_probs)).tolist(),
                token_confidence=[0.5] * size,
                token_correct=(random.random(size) < 0.6).tolist(),
                against=against,
            )
        )
    teacher = [
        replace(
            h, token_confidence=[0.6] * len(h.tokens),
            token_correct=(random.random(len(h.tokens)) < 0.7).tolist(),
        )
        for h in teacher
    ]  # fmt: skip
    return (
        forced_set(HypothesisSet.of("student", student)),
        forced_set(HypothesisSet.of("teacher", teacher)),
    )


def test_likeness_by_group_adds_up_to_the_whole() -> None:
    student, teacher = scorings()
    whole = assess_fidelity(student, teacher, measures=(), resamples=0)
    found = assess_group_fidelity(student, teacher, GroupOptions(bins=3), resamples=20)
    assert len(found.units) > 1
    for name in ("kl_divergence", "top1_agreement", "nll_difference"):
        values = [found.of_group(name, group) for group in range(len(found.units))]
        total = sum(
            number.value * units
            for number, units in zip(values, found.units, strict=True)
            if number is not None
        )
        expected = whole.numbers[name]
        assert expected is not None
        assert total / sum(found.units) == pytest.approx(expected.value)
    # The share of wrong tokens, counted one by one.
    assert found.grouping.of_sentence is not None
    for group in range(len(found.units)):
        wrong = [0, 0]
        for place, (one, other) in enumerate(
            zip(student.source.hypotheses, teacher.source.hypotheses, strict=True)
        ):
            if found.grouping.of_sentence[place] == group:
                wrong[0] += sum(not hit for hit in one.token_correct or ())
                wrong[1] += sum(not hit for hit in other.token_correct or ())
        change = found.of_group("error_change", group)
        assert change is not None
        assert change.value == pytest.approx(wrong[0] / wrong[1] - 1)


def test_a_scoring_against_another_system_is_refused() -> None:
    student, teacher = scorings()
    with pytest.raises(InputError, match="against another system"):
        assess_group_fidelity(student, replace(teacher, source=student.source))
