"""From hypotheses to tables: likeness to the reference system, and cells without a number."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.common.assess import _quality, assess
from recipes.common.fidelity import fidelity
from recipes.common.plan import WorkFolder
from recipes.common.recipe import REPOSITORY, load
from recipes.common.tables import NONE, calibration_table, published_section, results_markdown
from seqdistill.assessment import word_errors
from seqdistill.errors import InputError
from seqdistill.hypotheses import Against, Hypothesis, ModelInfo


def forced(number: int, log_probs: list[float], **token_uncertainty: list[float]) -> Hypothesis:
    return Hypothesis(
        id=number,
        rank=0,
        text="a b",
        tokens=[4, 5, 2],
        pieces=["a", "b", "</s>"],
        log_prob=sum(log_probs),
        token_log_probs=log_probs,
        token_uncertainty=token_uncertainty,
        uncertainty={name: sum(values) / 3 for name, values in token_uncertainty.items()},
        model=ModelInfo("ensemble", 2, "pe"),
        forced=True,
    )


ENSEMBLE = [
    forced(0, [-0.1, -0.2, -0.3], total_uncertainty=[0.3, 0.2, 0.1], epkl=[1.0, 3.0, 2.0]),
    forced(1, [-1.0, -0.5, -0.4], total_uncertainty=[0.6, 0.5, 0.4], epkl=[4.0, 5.0, 6.0]),
]


def test_a_system_is_like_itself() -> None:
    likeness = fidelity(ENSEMBLE, ENSEMBLE, "ensemble")
    assert likeness.log_prob_gap == 0
    assert likeness.n_tokens == 6
    assert likeness.spearman == pytest.approx({"epkl": 1.0, "total_uncertainty": 1.0})


def test_measures_of_students_find_their_counterparts() -> None:
    student = [
        replace(
            hypothesis,
            token_log_probs=[p - 0.5 for p in hypothesis.token_log_probs],
            token_uncertainty={
                # the order is turned round; a constant has no order; the last has no counterpart
                "total_uncertainty_base": [-u for u in measured["total_uncertainty"]],
                "epkl": [1.0, 1.0, 1.0],
                "inverse_precision": [1.0, 2.0, 3.0],
            },
        )
        for hypothesis in ENSEMBLE
        for measured in [hypothesis.token_uncertainty]
    ]
    likeness = fidelity(student, ENSEMBLE, "ensemble")
    assert likeness.log_prob_gap == pytest.approx(0.5)
    assert likeness.spearman == {"total_uncertainty_base": pytest.approx(-1.0), "epkl": None}


def test_exact_numbers_where_a_system_was_scored_against_the_reference() -> None:
    student = [
        replace(h, against=Against(ENSEMBLE[0].model, [0.1, 0.2, 0.3 + n], [True, n == 0, False]))
        for n, h in enumerate(ENSEMBLE)
    ]
    likeness = fidelity(student, ENSEMBLE, "ensemble", resamples=10)
    assert likeness.kl_divergence["value"] == pytest.approx(2.2 / 6)
    assert likeness.kl_divergence["low"] < likeness.kl_divergence["high"]
    assert likeness.top1_agreement["value"] == pytest.approx(0.5)
    assert "metric:kl_divergence" in likeness.kl_divergence["signature"]
    assert fidelity(ENSEMBLE, ENSEMBLE, "ensemble").kl_divergence is None


def test_other_texts_cannot_be_compared() -> None:
    other = [replace(ENSEMBLE[0], tokens=[4, 6, 2]), ENSEMBLE[1]]
    with pytest.raises(InputError, match="scored texts differ from those of ensemble"):
        fidelity(other, ENSEMBLE, "ensemble")
    with pytest.raises(InputError, match="scored texts differ"):
        fidelity(ENSEMBLE[:1], ENSEMBLE, "ensemble")


def estimate(value: float) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None}


def results() -> dict[str, object]:
    """Two systems; the first is an ordinary model without knowledge uncertainty or references."""
    full = {
        "label": "all",
        "quality": {
            name: {
                "bleu": {"metric": "bleu", "value": 30.0, "signature": "nrefs:1|tok:13a"},
                "chrf": {"metric": "chrf", "value": 50.0, "signature": "nrefs:1|nc:6"},
            }
            for name in ("test", "news")
        },
        "likelihood": {"nll": 2.5},
        "calibration": {"ece": 0.05},
        "fidelity": {"log_prob_gap": 0.25, "spearman": {"total_uncertainty": 0.9}},
        "ood": [
            {
                "measure": measure,
                "set": "news",
                "auroc": {"value": value, "low": value - 0.1, "high": value + 0.1},
            }
            for measure, value in (("total_uncertainty", 0.7), ("reverse_mutual_information", 0.8))
        ],
        "rejection": {"total_uncertainty": {"prr": estimate(0.4)}},
    }
    bare = {
        "label": "bare",
        "quality": {"test": None, "news": None},
        "likelihood": None,
        "calibration": None,
        "fidelity": None,
        "ood": None,
        "rejection": {},
    }
    step = {"name": "text", "stage": "data", "commit": None, "seconds": 75.0, "resumed": True}
    return {
        "title": "A title",
        "recipe": "demo",
        "scale": "tiny",
        "seed": 1,
        "measures": ["total_uncertainty", "reverse_mutual_information"],
        "sets": {"news": "what it is"},
        "systems": {"all": full, "bare": bare},
        "steps": [step],
        "hardware": {"processor": "a processor", "cores": 2, "accelerator": None},
        "versions": {"python": "3.11", "torch": None},
    }


def test_groups_have_a_table_each() -> None:
    numbers = {"missed_change": estimate(0.051), "false_change": None}
    errors = {
        "groups": [{"group": "up to 5", "sentences": 7, "units": 30, **numbers}],
        "combined_error_variance": {"value": 0.02, "low": 0.0, "high": 0.05},
        "symmetric_distance_error": None,
    }
    likeness = {
        "groups": [
            {
                "group": "9", "sentences": 3, "units": 20,
                "top1_agreement": estimate(0.8), "kl_divergence": estimate(0.25),
            }
        ]
    }  # fmt: skip
    record = {"by": "length", "errors": {"all": errors}, "likeness": {"all": likeness}}
    text = results_markdown(results() | {"groups": [record]})
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in text.split("## Where systems differ")[1].splitlines()
        if line.startswith("| ")
    ]
    assert ["up to 5", "7", f"5.1 / {NONE}"] in rows
    assert ["CEV", "", "0.0200 [0.0000, 0.0500]"] in rows
    assert ["SDE", "", NONE] in rows
    assert ["9", "3", "80.0 / 0.250"] in rows


def test_tables_show_every_number_and_a_dash_for_none() -> None:
    text = results_markdown(results())
    summary = {
        cells[0]: cells[1:]
        for line in text.split("\n## ")[0].splitlines()
        if line.startswith("| ")
        for cells in [[cell.strip() for cell in line.strip("| ").split(" | ")]]
    }
    assert summary["all"] == ["30.0", "50.0", "2.500", "0.050", "70.0", "80.0", "40.0", "0.90"]
    assert summary["bare"] == [NONE] * 8
    for expected in (
        "# A title (scale tiny)",
        "70.0 [60.0, 80.0]",
        "30.0 / 50.0",
        "`nrefs:1|tok:13a`",
        "--set scale=tiny",
        "commit: unknown",
        "data 1:15 min",
        "interrupted and resumed, last part timed only: text",
    ):
        assert expected in text
    assert "torch" not in text


def test_transcripts_are_shown_by_their_word_errors() -> None:
    made: dict = results()
    made["sentence_metric"] = "wer"
    # Two of ten words are substituted and one is inserted; of 19 characters two, and two inserted.
    errors = word_errors(["a b c X e f g h i k l"], ["a b c d e f g h i j"], resamples=0)
    silent = word_errors(["a"], [""], resamples=0)
    made["systems"]["all"]["quality"] = {"test": errors.to_dict(), "news": silent.to_dict()}
    text = results_markdown(made)
    head = text.split("\n## ")[0]
    (row,) = [line for line in head.splitlines() if line.startswith("| all ")]
    cells = [cell.strip() for cell in row.strip("| ").split(" | ")]
    assert cells[1:4] == ["30.0", "20.0 / 10.0 / 0.0", "21.1"]
    assert cells[4:] == ["2.500", "0.050", "70.0", "80.0", "40.0", "0.90"]
    for missing in ("BLEU", "chrF"):
        assert missing not in text
    section = text.split("\n## ")[3]
    assert section.startswith("Word errors on every set")
    assert f"`{errors.rates.signatures['wer']}`" in section
    assert "| bare " in section
    assert len([line for line in section.splitlines() if line.startswith("| all ")]) == 4


def test_the_metric_of_a_recipe_decides_what_quality_is(tmp_path: Path) -> None:
    rows = [replace(ENSEMBLE[0], text="a b", reference="a c"), replace(ENSEMBLE[1], reference="a")]
    demo = REPOSITORY / "recipes" / "demo"
    small = ["assess.resamples=20", "assess.seed=3"]
    found = _quality(load(demo, ["assess.sentence_metric=wer", *small]), rows)
    expected = word_errors(["a b", "a b"], ["a c", "a"], resamples=20, seed=3)
    assert found == expected.to_dict()
    assert found["rates"]["wer"]["value"] == pytest.approx(2 / 3)
    scores = _quality(load(demo, small), rows)
    assert scores["bleu"]["signature"].startswith("nrefs:1|case:mixed")
    bare = [replace(row, reference=None) for row in rows]
    assert _quality(load(demo, ["assess.sentence_metric=wer"]), bare) is None
    with pytest.raises(InputError, match=r"unknown metric cer.*known: bleu, chrf, wer"):
        assess(load(demo, ["assess.sentence_metric=cer"]), WorkFolder(tmp_path))


def test_a_temperature_that_was_not_found_says_why() -> None:
    estimate = {"value": 0.25, "low": None, "high": None}
    numbers = {"nll": estimate, "ece_equal_mass": estimate, "ece_equal_width": estimate}
    system: dict[str, Any] = {
        "label": "ensemble of 2",
        "calibration": {
            "numbers": numbers,
            "temperature": None,
            "temperature_problem": "valid: the likelihood still rises at the lowest temperature",
        },
    }
    table = calibration_table({"systems": {"ensemble": system}})
    assert re.search(r"\| ensemble of 2 \| +1 \|", table)
    assert table.endswith(f"- ensemble of 2: {system['calibration']['temperature_problem']}")


def test_published_numbers_stand_beside_ours() -> None:
    quality = {"test": {"bleu": {"value": 27.94}, "chrf": {"value": 55.0}}, "later": None}
    theirs = {"what": "big", "value": 28.6, "source": "their page", "system": "one"}
    results: dict[str, Any] = {
        "systems": {"one": {"label": "one teacher", "quality": quality}},
        "published": [
            {**theirs, "set": "test", "score": "bleu"},
            {**theirs, "set": "later", "score": "chrf"},
        ],
    }
    heading, table = published_section(results)
    assert heading == "## Beside published numbers"
    rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()]
    assert rows[2] == ["big", "BLEU, test", "28.6", "27.9", "one teacher", "their page"]
    assert rows[3][1:4] == ["chrF2, later", "28.6", NONE]
    assert published_section({"systems": {}}) == []
