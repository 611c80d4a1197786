import json
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.assessment import (
    assess_ood,
    assess_quality,
    assess_rejection,
    detect,
    read_best,
    uncertainty_of,
)
from seqdistill.assessment.hypothesis_sets import choose_measures, describe_model
from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo, write_hypotheses
from seqdistill.uncertainty.measures import measures_of
from tests.reference.hypothesis_sets import make_hypotheses

IN = make_hypotheses(40)
OUT = make_hypotheses(30, difficulty=1.0, seed=1)


def test_every_measure_on_every_set() -> None:
    assessment = assess_ood(IN, {"news": OUT, "same": IN}, resamples=20, seed=3)
    assert assessment.measures == list(measures_of("ensemble"))
    assert assessment.sets == ["news", "same"]
    expected = detect(
        uncertainty_of(IN, "epkl"),
        uncertainty_of(OUT, "epkl"),
        measure="epkl",
        resamples=20,
        seed=3,
    )
    assert assessment.results["epkl"]["news"] == expected
    assert assessment.results["epkl"]["same"].auroc.value == 0.5
    record = json.loads(json.dumps(assessment.to_dict(), allow_nan=False))
    assert record["schema"] == "seqdistill.ood/1"
    assert len(record["results"]) == 2 * len(assessment.measures)
    assert record["results"][0]["signature"].startswith("measure:total_uncertainty|")


def test_measures_keep_the_order_asked_for() -> None:
    assessment = assess_ood(IN, {"news": OUT}, measures=["epkl", "total_uncertainty"], resamples=0)
    assert assessment.measures == ["epkl", "total_uncertainty"]


def test_unknown_measures_are_answered_with_those_present() -> None:
    with pytest.raises(InputError, match=r"'bald'.*in-domain set; present: total_uncertainty, "):
        assess_ood(IN, {"news": OUT}, measures=["bald"])
    with pytest.raises(InputError, match="unknown measure 'bald' in sentence 0; present: total_"):
        uncertainty_of(IN, "bald")
    with pytest.raises(InputError, match="empty list"):
        choose_measures({"x": IN}, [])
    with pytest.raises(InputError, match="no measure is present in all of a, b"):
        choose_measures({"a": IN, "b": [replace(h, uncertainty={}) for h in OUT]})


def test_a_measure_that_one_sentence_lacks_is_not_common() -> None:
    lacking = replace(IN[5], uncertainty={"epkl": 0.1})
    sets = {"a": [*IN[:5], lacking, *IN[6:]], "b": OUT}
    assert choose_measures(sets) == ["epkl"]


def test_empty_sets_and_mixed_models() -> None:
    with pytest.raises(InputError, match="'news' has no hypotheses"):
        assess_ood(IN, {"news": []})
    with pytest.raises(InputError, match="in-domain set has no hypotheses"):
        assess_ood([], {"news": OUT})
    with pytest.raises(InputError, match="at least one out-of-domain set"):
        assess_ood(IN, {})
    with pytest.raises(InputError, match=r"one model, got ensemble of 5.* and Dirichlet student"):
        assess_ood(IN, {"news": make_hypotheses(3, kind="dirichlet")})


def test_models_are_described() -> None:
    described = [
        describe_model(make_hypotheses(1, kind=k)[0].model) for k in ("ensemble", "softmax")
    ]
    assert described == ["ensemble of 5, product of expectations", "one ordinary model"]


def test_read_best_takes_rank_0_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_hypotheses(path, [IN[2], replace(IN[2], rank=1), IN[0]])
    assert [h.id for h in read_best(path)] == [0, 2]
    write_hypotheses(path, [replace(IN[0], rank=1)])
    with pytest.raises(InputError, match="no hypothesis of rank 0"):
        read_best(path)
    write_hypotheses(path, [IN[0], IN[0]])
    with pytest.raises(
        InputError,
        match=r"x\.jsonl:2: sentence 0 has two hypotheses of rank 0 \(the other is on line 1\)",
    ):
        read_best(path)
    write_hypotheses(path, [IN[0], make_hypotheses(2, kind="softmax")[1]])
    with pytest.raises(InputError, match=r"x\.jsonl:2: expected the output of one model"):
        read_best(path)


def test_quality_and_rejection_need_references() -> None:
    bare = make_hypotheses(5, references=False)
    assert assess_quality(bare) is None
    assert assess_rejection(bare) is None
    with pytest.raises(InputError, match="1 of 2 hypotheses have a reference"):
        assess_quality([IN[0], bare[1]])
    rejection = assess_rejection(IN, measures=["epkl"], metric="bleu", resamples=0)
    assert list(rejection) == ["epkl"]
    assert rejection["epkl"].quality == "sentence BLEU"
    assert assess_quality(IN).n == 40


def test_several_students_and_ep_are_named() -> None:
    students = ModelInfo(kind="dirichlet", members=3, predictive="base", offset=1.0)
    assert describe_model(students).startswith("mixture of 3 Dirichlet students, offset 1")
    ensemble = ModelInfo(kind="ensemble", members=5, predictive="ep")
    assert describe_model(ensemble) == "ensemble of 5, expectation of products"
    drawn = ModelInfo("laplace", 1, "mean", samples=16, seed=3)
    assert describe_model(drawn) == (
        "laplace student over logits, 16 members drawn with seed 3, decoded by their mean"
    )
