"""What the sections of the report compute: intervals, curves, fidelity, packed sentences."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from seqdistill.assessment.correlation import spearman
from seqdistill.assessment.detection import compare_detection
from seqdistill.assessment.forced_sets import forced_set
from seqdistill.assessment.group_errors import assess_group_errors
from seqdistill.assessment.groups import GROUPINGS, GroupOptions
from seqdistill.assessment.hypothesis_files import HypothesisSet
from seqdistill.assessment.hypothesis_sets import uncertainty_of
from seqdistill.assessment.word_alignment import Normalisation
from seqdistill.assessment.word_errors import word_errors
from seqdistill.hypotheses import Against, ModelInfo
from seqdistill.report import ReportInput, SystemInput
from seqdistill.report.calibration import calibration_section
from seqdistill.report.differences import detection_differences
from seqdistill.report.errors import errors_section, retention_curve
from seqdistill.report.explorer import Scale, _chosen, explorer_json
from seqdistill.report.fidelity import fidelity_section
from seqdistill.report.groups import groups_section
from seqdistill.report.page import render_report
from seqdistill.report.quality import (
    chrf_counts,
    chrf_of_sums,
    quality_numbers,
    quality_table,
)
from seqdistill.report.results import compute
from seqdistill.report.tables import format_p_value
from tests.reference.hypothesis_sets import make_hypotheses
from tests.reference.sharpened import Sharpened


def two_systems(count: int = 40) -> list[SystemInput]:
    """An ensemble and a student that translated the same sources."""
    systems = []
    for kind in ("ensemble", "dirichlet"):
        inside = make_hypotheses(count, kind=kind)
        outside = make_hypotheses(20, kind=kind, difficulty=0.8, seed=1)
        sourced = [
            [replace(h, source=f"{name} {h.id}") for h in found]
            for name, found in (("sentence", inside), ("headline", outside))
        ]
        systems.append(SystemInput(kind, sourced[0], {"news": sourced[1]}))
    return systems


# --- quality -----------------------------------------------------------------


def test_scores_of_sums_are_those_of_sacrebleu() -> None:
    texts = ["Guten  Tag, Tom!", "ja", "", "das ist ein Haus", "völlig anders"]
    references = ["Guten Morgen, Tom!", "ja", "nein", "dies war ein kleines Haus", "xyz"]
    for chosen in ([0], [1], [2], [4], [0, 1, 2, 3, 4], [1, 4]):
        mine, theirs = [texts[i] for i in chosen], [references[i] for i in chosen]
        sums = chrf_counts(mine, theirs).sum(axis=0, keepdims=True)
        expected = sacrebleu.corpus_chrf(mine, [theirs]).score
        assert chrf_of_sums(sums)[0] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_intervals_are_quantiles_of_corpora_drawn_again() -> None:
    hypotheses = make_hypotheses(30)
    found = quality_numbers(hypotheses, resamples=50, seed=3)
    assert found is not None
    stream = np.random.default_rng([3, 0])
    drawn: dict[str, list[float]] = {"bleu": [], "chrf": []}
    for _ in range(50):
        chosen = [hypotheses[i] for i in stream.integers(0, 30, size=30)]
        texts, references = [h.text for h in chosen], [str(h.reference) for h in chosen]
        drawn["bleu"].append(sacrebleu.corpus_bleu(texts, [references], force=True).score)
        drawn["chrf"].append(sacrebleu.corpus_chrf(texts, [references]).score)
    for name, scores in drawn.items():
        low, high = np.quantile(scores, [0.025, 0.975])
        assert found.numbers[name].low == pytest.approx(low, rel=1e-9)
        assert found.numbers[name].high == pytest.approx(high, rel=1e-9)
        assert low < found.numbers[name].value < high
    assert quality_numbers([replace(h, reference=None) for h in hypotheses],
                             resamples=0, seed=0) is None  # fmt: skip


def test_quality_table_has_intervals_and_marks_the_best() -> None:
    results = compute(ReportInput(two_systems(), resamples=0))
    table = quality_table(results, resamples=20, seed=0)
    assert table["columns"] == ["BLEU", "chrF"]
    for column in range(2):
        cells = [row["cells"][column] for row in table["rows"]]
        values = [float(cell["text"]) for cell in cells]
        assert [cell["best"] for cell in cells] == [value == max(values) for value in values]
        for cell, value in zip(cells, values, strict=True):
            low, high = map(float, cell["interval"].split("–"))
            assert low <= value <= high
    without = quality_table(results, resamples=0, seed=0)
    assert all(cell["interval"] is None for row in without["rows"] for cell in row["cells"])


def test_differences_of_quality() -> None:
    first, second = two_systems()
    texts = [replace(h, text=str(h.reference)) for h in first.in_domain[:20]]
    better = replace(second, in_domain=[*texts, *first.in_domain[20:]])
    for metric, columns, sign in (("chrf", ["BLEU", "chrF"], 1), ("wer", ["WER, %", "CER, %"], -1)):
        report = ReportInput([first, replace(better, out_of_domain={})], resamples=60,
                             quality_metric=metric, measures=["mutual_information"])  # fmt: skip
        found = quality_table(compute(report), resamples=60, seed=0)["differences"]
        assert found["columns"] == columns
        (row,) = found["rows"]
        assert row["measure"] is None
        assert all(sign * float(cell["value"]) > 0 for cell in row["cells"])
        assert row["cells"][0]["p"] == "p≤0.016"
    other = replace(second, in_domain=[replace(h, source="x") for h in second.in_domain])
    results = compute(ReportInput([first, other], resamples=0))
    assert quality_table(results, resamples=0, seed=0)["differences"] is None


# --- transcripts: word errors instead of BLEU and chrF ---


def test_word_errors_are_the_quality_of_transcripts() -> None:
    systems = two_systems()
    report = ReportInput(systems, resamples=20, quality_metric="wer")
    results = compute(report)
    table = quality_table(results, resamples=20, seed=0)
    assert table["columns"] == ["WER, %", "sub, %", "ins, %", "del, %", "SER, %", "CER, %"]
    hypotheses = systems[0].in_domain
    expected = word_errors(
        [h.text for h in hypotheses], [str(h.reference) for h in hypotheses], resamples=20
    ).rates
    for cell, number in zip(table["rows"][0]["cells"], expected.numbers.values(), strict=True):
        assert number is not None
        assert number.low is not None
        assert number.high is not None
        assert cell["text"] == f"{100 * number.value:.1f}"
        assert cell["interval"] == f"{100 * number.low:.1f}–{100 * number.high:.1f}"
    # The fewest errors are the best.
    rates = [float(row["cells"][0]["text"]) for row in table["rows"]]
    assert [row["cells"][0]["best"] for row in table["rows"]] == [r == min(rates) for r in rates]
    section = errors_section(results, report)
    assert section is not None
    assert (section["metric"], section["acceptable"]) == ("WER", "10")
    page = render_report(report)
    assert f"<code>{expected.signatures['wer']}</code>" in page
    assert "sentence WER, %" in page
    assert "at most 10&nbsp;% WER" in page
    assert "acceptable:0.1" in page
    assert "BLEU" not in page
    assert "chrF" not in page
    lower = replace(report, normalisation=Normalisation(lowercase=True))
    assert "unit:words|case:lower" in render_report(lower)


def test_transcripts_without_references_and_with_an_empty_one() -> None:
    first, second = two_systems()
    bare = replace(second, in_domain=[replace(h, reference=None) for h in second.in_domain])
    silent = [replace(h, reference="") if h.id == 3 else h for h in first.in_domain]
    report = ReportInput([replace(first, in_domain=silent), bare], resamples=0,
                         quality_metric="wer")  # fmt: skip
    results = compute(report)
    assert results[1].word_errors is None
    words = len(silent[3].text.split())
    assert results[0].word_errors is not None
    assert results[0].word_errors.words.insertions[3] == words
    table = quality_table(results, resamples=0, seed=0)
    assert [cell["text"] for cell in table["rows"][1]["cells"]] == ["–"] * 6
    packed = json.loads(explorer_json(results, "wer", series=6) or "{}")
    assert packed["systems"][0]["quality"][3] == 100.0 * (1 - words)
    assert "dirichlet" in render_report(report)


# --- calibration and exact fidelity ---


def scored_systems(against: ModelInfo | None) -> list[SystemInput]:
    """An ensemble and a student that is too sure, which was scored against it."""
    ensemble, student = two_systems()
    made = Sharpened(40, 1.0, V=80).hypotheses(kind="ensemble")
    sure = [
        replace(
            h,
            against=against
            and Against(against, [0.1 * (k + 1) for k in range(8)], [k < 6 for k in range(8)]),
        )
        for h in Sharpened(40, 1.6, V=80).hypotheses(kind="dirichlet")
    ]
    valid = Sharpened(40, 1.6, seed=1, V=80).hypotheses(kind="dirichlet")
    return [
        replace(ensemble, forced=made),
        replace(
            student, forced=sure, forced_validation=forced_set(HypothesisSet.of("valid", valid))
        ),
    ]


def test_calibration_with_intervals_and_at_a_temperature() -> None:
    results = compute(ReportInput(scored_systems(None), resamples=30))
    section = calibration_section(results)
    assert section is not None
    assert [row["name"] for row in section["rows"]] == ["ensemble", "dirichlet", "dirichlet"]
    plain, before, after = section["rows"]
    assert plain["temperature"] is before["temperature"] is None
    low, high = map(float, after["temperature"]["interval"].split("–"))
    assert 1.3 < low < float(after["temperature"]["value"]) < high < 2.0
    for column, name in enumerate(("nll", "ece_equal_mass", "ece_equal_width")):
        cell = before["cells"][column]
        number = results[1].calibration_numbers.numbers[name]
        scale = 1.0 if name == "nll" else 100.0
        assert float(cell["value"]) == pytest.approx(scale * number.value, abs=0.006)
        low, high = map(float, cell["interval"].split("–"))
        assert low == pytest.approx(scale * number.low, abs=0.006)
        assert float(after["cells"][column]["value"]) < float(cell["value"])
        assert cell["p"] is None
        assert after["cells"][column]["p"] == "p≤0.032"
    assert len(section["panels"]) == 2
    assert any("|T:1." in line for line in section["signatures"]["calibration"])
    table = quality_table(results, resamples=0, seed=0)
    of_ece = [row["cells"][table["columns"].index("ECE, %")] for row in table["rows"]]
    assert of_ece[1]["interval"] == before["cells"][1]["interval"]
    assert calibration_section(compute(ReportInput(two_systems(), resamples=0))) is None


def test_a_temperature_out_of_reach_is_said() -> None:
    ensemble, student = scored_systems(None)
    far = Sharpened(40, 3.0, V=80).hypotheses(kind="dirichlet")
    valid = forced_set(HypothesisSet.of("valid set", far))
    page = render_report(
        ReportInput([ensemble, replace(student, forced_validation=valid)], resamples=5)
    )
    assert "dirichlet is shown at no temperature: valid set: the likelihood still rises at" in page
    assert "the highest temperature, 2" in page
    assert "T fitted on a validation set" not in page


def test_exact_fidelity_is_shown_for_the_ensemble_it_is_of() -> None:
    results = compute(ReportInput(scored_systems(ModelInfo("ensemble", 5, "pe")), resamples=30))
    section = fidelity_section(results)
    assert section is not None
    (row,) = section["exact"]
    assert row["name"] == "dirichlet"
    assert [cell["text"] for cell in row["cells"]] == ["0.450", "75.0"]
    assert row["cells"][0]["interval"] == "0.450–0.450"
    assert any("kl_divergence" in line for line in section["signatures"]["fidelity"])
    page = render_report(ReportInput(scored_systems(ModelInfo("ensemble", 5, "pe")), resamples=5))
    assert "Scored against ensemble" in page
    assert "T fitted on a validation set" in page
    for against in (None, ModelInfo("ensemble", 2, "ep")):
        other = fidelity_section(compute(ReportInput(scored_systems(against), resamples=0)))
        assert other is not None
        assert other["exact"] == []


# --- errors ------------------------------------------------------------------


def test_retention_by_hand_with_a_tie() -> None:
    kept, left = retention_curve(np.array([0.2, 0.6, 1.0, 0.0]), np.array([1.0, 2.0, 2.0, 0.5]))
    np.testing.assert_allclose(kept, [0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(left, [0.0, 0.0, 0.05, 0.45])


def test_errors_at_a_threshold_are_left_out_where_it_separates_nothing() -> None:
    system = two_systems()[0]
    perfect = [replace(h, text=str(h.reference)) for h in system.in_domain[:-1]]
    almost = replace(system, in_domain=[*perfect, system.in_domain[-1]])
    for chosen, acceptable in ((system, "40"), (almost, None)):
        report = ReportInput([chosen], resamples=5)
        section = errors_section(compute(report), report)
        assert section is not None
        assert section["acceptable"] == acceptable
        labels = [table["label"] for table in section["tables"]]
        assert labels == (["PRR", "R-AUC", "F1-AUC", "F1@95", "AURC"] if acceptable else ["PRR"])
    report = ReportInput([system], resamples=5)
    section = errors_section(compute(report), report)
    assert section is not None
    for table in section["tables"]:
        column = [row["cells"][0] for row in table["rows"]]
        values = [float(cell["value"]) for cell in column]
        best = max(values) if table["higher"] else min(values)
        marked = {value for cell, value in zip(column, values, strict=True) if cell["best"]}
        assert marked == {best}


# --- fidelity ----------------------------------------------------------------


def test_fidelity_is_measured_on_references_where_both_have_them() -> None:
    ensemble, student = two_systems()
    results = compute(ReportInput([student, ensemble], resamples=0))
    section = fidelity_section(results)
    assert section is not None
    assert section["teacher"] == "ensemble"
    assert not section["forced"]
    by_measure = {row["measure"]: row["cells"][0]["value"] for row in section["rows"]}
    assert "inverse_precision" not in by_measure  # the ensemble has none
    x, y = (
        [h.uncertainty["epkl"] for h in system.in_domain] for system in (ensemble, student)
    )  # fmt: skip
    assert by_measure["epkl"] == f"{spearman(x, y):.3f}"
    forced = make_hypotheses(10, forced=True)
    same = [replace(f, model=student.in_domain[0].model) for f in forced]
    on_references = [replace(ensemble, forced=forced), replace(student, forced=same)]
    section = fidelity_section(compute(ReportInput(on_references, resamples=0)))
    assert section is not None
    assert section["forced"]
    assert section["systems"][0]["n"] == 10
    assert {row["cells"][0]["value"] for row in section["rows"]} == {"1.000"}
    # One without scored references: then all are compared on their own translations; and one that
    # translated other sentences under the same numbers is named, not compared.
    elsewhere = [replace(h, source=f"other {h.id}") for h in student.in_domain]
    third, fourth = replace(student, name="third"), SystemInput("fourth", elsewhere)
    mixed = ReportInput([*on_references, third, fourth], resamples=0)
    section = fidelity_section(compute(mixed))
    assert section is not None
    assert not section["forced"]
    assert [system["name"] for system in section["systems"]] == ["dirichlet", "third"]
    assert section["apart"] == ["fourth"]
    # Nothing to be faithful to.
    assert fidelity_section(compute(ReportInput([student], resamples=0))) is None
    assert fidelity_section(compute(ReportInput([ensemble], resamples=0))) is None


# --- groups ------------------------------------------------------------------


def test_groups_are_those_of_the_verb_and_have_their_place_on_the_page(tmp_path: Path) -> None:
    ensemble, student = two_systems()
    texts = [
        replace(h, reference=t.reference, text=h.text if h.id % 2 else t.text)
        for h, t in zip(student.in_domain, ensemble.in_domain, strict=True)
    ]
    forced = make_hypotheses(10, forced=True)
    same = [replace(f, model=student.in_domain[0].model) for f in forced]
    systems = [
        replace(ensemble, forced=forced),
        replace(student, in_domain=texts, forced=same),
        # Others' sentences: nothing to compare.
        replace(student, name="elsewhere", in_domain=texts[:-1], forced=()),
    ]
    training, speakers = tmp_path / "train.txt", tmp_path / "speakers.tsv"
    training.write_text("the house\nthe small tree\n", encoding="utf-8")
    rows = [f"{h.id}\t{'even' if h.id % 2 == 0 else 'odd'}\n" for h in texts]
    speakers.write_text("".join(rows), encoding="utf-8")
    report = ReportInput(systems, resamples=10, training_text=training, groups=speakers)
    section = groups_section(compute(report), report)
    assert section is not None
    assert section["teacher"] == "ensemble"
    titles = [part["title"] for part in section["sections"]]
    assert titles == [GROUPINGS[by] for by in ("length", "word", "rarest-word", "file")]
    given = section["sections"][-1]
    expected = assess_group_errors(
        HypothesisSet.of("student", texts),
        HypothesisSet.of("ensemble", ensemble.in_domain),
        GroupOptions("file", groups=speakers),
        resamples=10,
    )
    table = given["tables"][0]
    assert [system["name"] for system in table["systems"]] == ["dirichlet"]
    assert [row["name"] for row in table["rows"]] == ["even", "odd"]
    even = table["rows"][0]["cells"][0]
    assert even["text"] == "+0.0"  # there the student wrote what the ensemble did
    odd = expected.of_group("missed_change", 1)
    assert odd is not None
    assert table["rows"][1]["cells"][0]["text"] == f"{100 * odd.value:+.1f}"
    spread = expected.numbers.numbers["combined_error_variance"]
    assert spread is not None
    assert given["spreads"]["rows"][0]["cells"][0]["text"] == f"{spread.value:.4f}"
    # Scored texts have groups of sentences, not of words.
    assert [len(part["tables"]) for part in section["sections"]] == [3, 2, 3, 3]
    page = render_report(report)
    assert '<section id="groups">' in page
    assert "occurrences of the word in training" in page
    assert groups_section(compute(ReportInput([student], resamples=0)), report) is None


# --- explorer ----------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [1e-6, 3e-4, 0.02, 0.5, 7.5],
        [0.0, 0.25, 0.5],
        [0.0, 0.0],
        [0.7],
        [-0.5, 0.0, 1.25],
        [-1.0, -1.0],
    ],
)
def test_token_values_survive_two_characters(values: list[float]) -> None:
    scale = Scale.of(np.array(values))
    text = scale.encode(values)
    assert len(text) == 2 * len(values)
    assert scale.decode(text) == pytest.approx(values, rel=2.5e-3, abs=1e-3 * (min(values) < 0))
    assert scale.full > scale.pale


def test_a_sentences_value_keeps_four_digits() -> None:
    values = np.array([3e-9, 1.2345, 1.2346, 250.0, 0.0])
    scale = Scale.of(values, width=3, width_below_zero=4)
    assert scale.decode(scale.encode(list(values))) == pytest.approx(list(values), rel=6e-5)
    values = np.array([-312.5, -0.01234, 0.0, 0.01234, 99.0])  # relative distances
    scale = Scale.of(values, width=3, width_below_zero=4)
    text = scale.encode(list(values))
    assert len(text) == 4 * len(values)
    assert scale.decode(text) == pytest.approx(list(values), abs=1.3e-5)


def test_shades_are_full_at_the_98th_percentile() -> None:
    values = np.arange(1, 102, dtype=np.float64)
    scale = Scale.of(values)
    assert (scale.pale, scale.full) == (0.0, pytest.approx(np.quantile(values, 0.98)))


def test_the_page_holds_every_value() -> None:
    systems = two_systems(8)
    text = explorer_json(compute(ReportInput(systems, resamples=0)), "chrf", series=6)
    assert text is not None
    data = json.loads(text)
    assert data["kept"] == [28, 28]
    assert data["sets"] == ["in-domain", "news"]
    for system, packed in zip(systems, data["systems"], strict=True):
        every = [*system.in_domain, *system.out_of_domain["news"]]
        assert packed["id"] == [h.id for h in every]
        assert packed["set"] == [0] * 8 + [1] * 20
        assert [data["texts"][i] for i in packed["source"]] == [h.source for h in every]
        for measure, column in packed["values"].items():
            expected = [h.uncertainty[measure] for h in every]
            logarithmic, start, step, width = column["scale"]
            scale = Scale(bool(logarithmic), start, step, 0.0, 1.0, width)
            assert scale.decode(column["code"]) == pytest.approx(expected, rel=5e-5)
        for measure, tokens in packed["tokens"].items():
            logarithmic, *rest = tokens["scale"]
            scale = Scale(bool(logarithmic), *rest)
            for h, row in zip(every, tokens["rows"], strict=True):
                assert scale.decode(row) == pytest.approx(h.token_uncertainty[measure], rel=5e-3)


def test_a_tight_budget_leaves_out_shades_first_and_then_sentences() -> None:
    results = compute(ReportInput(two_systems(60), resamples=0))
    whole = explorer_json(results, "chrf", series=6)
    assert whole is not None
    texts_only = len(json.dumps({
        **json.loads(whole),
        "systems": [{**s, "tokens": {}} for s in json.loads(whole)["systems"]],
    }))  # fmt: skip
    tight = explorer_json(results, "chrf", series=6, budget=2 * texts_only)
    assert tight is not None
    packed = json.loads(tight)
    assert packed["kept"] == [80, 80]
    # The measures that plots show come first.
    assert "mutual_information" in packed["systems"][0]["tokens"]
    tiny = explorer_json(results, "chrf", series=6, budget=texts_only // 2)
    assert tiny is not None
    packed = json.loads(tiny)
    assert 0 < packed["kept"][0] < packed["kept"][1] == 80
    assert len(tiny) < texts_only // 2
    # The same sentences of both, so that they still stand side by side.
    assert packed["systems"][0]["id"] == packed["systems"][1]["id"]
    # Both ends of every order are there, and quality is one of them.
    kept = {
        (packed["sets"][number], row)
        for number, row in zip(packed["systems"][0]["set"], packed["systems"][0]["id"], strict=True)
    }
    for result in results:
        every = {
            (name, h.id): h
            for name, rows in {
                "in-domain": result.system.in_domain, **result.system.out_of_domain
            }.items()
            for h in rows
        }  # fmt: skip
        for measure in result.measures:
            ordered = sorted(every, key=lambda key, m=measure: every[key].uncertainty[m])
            assert {ordered[0], ordered[-1]} <= kept, measure


def test_sentences_are_chosen_from_both_ends_and_evenly() -> None:
    every = [("in-domain", number) for number in range(100)]
    places = {sentence: abs(sentence[1] - 40) for sentence in every}
    found = _chosen(every, places, 10)
    ends = {("in-domain", number) for number in (38, 39, 40, 41, 42)}
    assert ends <= found
    assert len(found) == 10
    rest = sorted(number for _, number in found - ends)
    assert (rest[0], rest[-1]) == (0, 99)
    assert _chosen(every, places, 1) == {("in-domain", 0)}
    assert _chosen(every, places, 100) == set(every)


def test_a_sentence_cannot_end_the_script() -> None:
    system = two_systems(5)[0]
    hostile = [replace(h, source="</script><b>") for h in system.in_domain]
    page = render_report(ReportInput([replace(system, in_domain=hostile)], resamples=0))
    assert "</script><b>" not in page
    assert "\\u003c/script>\\u003cb>" in page.replace("&lt;", "<")


def test_the_best_of_each_column_is_marked_over_all_systems() -> None:
    report = ReportInput(two_systems(), resamples=0)
    page = render_report(report)
    values = [
        result.ood.results[measure]["news"].auroc.value
        for result in compute(report)
        if result.ood
        for measure in result.ood.measures
    ]
    start = page.index('id="detection"')
    table = page[start : page.index("<details>", start)]
    best = [
        float(cell.split("<span>")[1].split("</span>")[0])
        for cell in table.split("<td")
        if 'class="score best"' in cell
    ]
    assert best == [round(100 * max(values), 1)]
    assert table.count("own-best") == 1  # of the other system


# --- differences between systems -----------------------------------------------


def test_differences_are_those_of_the_paired_bootstrap() -> None:
    report = ReportInput(two_systems(), resamples=60, seed=2)
    first, second = results = compute(report)
    assert detection_differences(results, ["other"], report) is None
    table = detection_differences(results, ["news", "other"], report)
    assert table is not None
    assert (table["first"], table["columns"]) == ("ensemble", ["news", "other"])
    assert [row["measure"] for row in table["rows"]] == ["mutual_information", "total_uncertainty"]
    for row in table["rows"]:
        compared = compare_detection(
            *(
                uncertainty_of(rows, row["measure"])
                for result in (second, first)
                for rows in (result.system.in_domain, result.system.out_of_domain["news"])
            ),
            resamples=60,
            seed=2,
        )["auroc"]
        found, absent = row["cells"]
        assert absent is None
        assert found["value"] == f"{100 * compared.difference.value:+.1f}"
        assert found["p"] == format_p_value(compared)
        assert compared.difference.low is not None
        assert found["interval"].startswith(f"{100 * compared.difference.low:+.1f} … ")
    errors = errors_section(results, report)
    assert errors is not None
    (row, _) = errors["differences"]["rows"]
    prr = [(result.rejection or {})[row["measure"]].prr for result in (second, first)]
    assert prr[0] is not None
    assert prr[1] is not None
    assert row["cells"][0]["value"] == f"{100 * (prr[0].value - prr[1].value):+.1f}"
    page = render_report(report)
    assert page.count("Differences from ensemble") == 3  # quality, too


def test_other_sentences_are_not_compared() -> None:
    first, second = two_systems()
    other = replace(second, in_domain=[replace(h, source="another") for h in second.in_domain])
    report = ReportInput([first, other], resamples=0)
    results = compute(report)
    assert detection_differences(results, ["news"], report) is None
    assert (errors_section(results, report) or {})["differences"] is None
    assert detection_differences(results[:1], ["news"], report) is None
