"""Text tables and shaded tokens: what the report is put together from."""

import pytest

from seqdistill.assessment import assess_ood
from seqdistill.assessment.detection import Estimate
from seqdistill.errors import InputError
from seqdistill.report import format_estimate, format_table, ood_table
from seqdistill.report.examples import most_uncertain, shading_scale, surface
from tests.reference.hypothesis_sets import make_hypotheses


def test_estimates() -> None:
    assert format_estimate(Estimate(0.71234)) == "71.2"
    assert format_estimate(Estimate(0.71234, 0.7, 0.72)) == "71.2 [70.0, 72.0]"


def test_markdown_table() -> None:
    assert format_table(["a", "b"], [["xyz", "1"], ["x", "10.5"]], "markdown").splitlines() == [
        "| a   |    b |",
        "| --- | ---: |",
        "| xyz |    1 |",
        "| x   | 10.5 |",
    ]


def test_bad_tables() -> None:
    with pytest.raises(InputError, match="expected 2 cells a row, got 1"):
        format_table(["a", "b"], [["x"]])
    with pytest.raises(InputError, match="unknown table style"):
        format_table(["a"], [], "latex")


def test_the_best_is_marked_also_where_lower_is_better() -> None:
    hypotheses = make_hypotheses(30), make_hypotheses(30, difficulty=1.0, seed=1)
    assessment = assess_ood(hypotheses[0], {"x": hypotheses[1]}, resamples=0)
    for metric, choose in (("auroc", max), ("fpr_at_95_tpr", min)):
        lines = ood_table(assessment, metric).splitlines()[2:]
        values = [float(line.split()[1]) for line in lines]
        marked = [float(line.split()[1]) for line in lines if line.endswith("*")]
        assert marked
        assert set(marked) == {choose(values)}
    with pytest.raises(InputError, match="unknown metric 'accuracy'; there are auroc"):
        ood_table(assessment, "accuracy")


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["▁Good", "▁mor", "ning", "</s>"], "Good morning ⏎"),
        (["Good", "mor@@", "ning", "</s>"], "Good morning ⏎"),
        (["Good", "morning"], "Good morning"),
        (["▁", "▁x"], "  x"),
        ([], ""),
    ],
)
def test_pieces_read_as_text(pieces: list[str], text: str) -> None:
    assert len(surface(pieces)) == len(pieces)
    assert "".join(surface(pieces)).lstrip() == text.lstrip()


def test_the_most_uncertain_come_first_and_are_shaded() -> None:
    hypotheses = make_hypotheses(20)
    full = shading_scale(hypotheses, "mutual_information")
    examples = most_uncertain(hypotheses, "mutual_information", 5, full_shade=full)
    values = [example.value for example in examples]
    assert (
        values
        == sorted((h.uncertainty["mutual_information"] for h in hypotheses), reverse=True)[:5]
    )
    for example in examples:
        assert len(example.tokens) == len(example.hypothesis.pieces)
        for token in example.tokens:
            assert token.shade == pytest.approx(min(1.0, token.value / full))
    # A sequence measure has no token values, so nothing is shaded.
    joint = most_uncertain(hypotheses, "joint_total_uncertainty_pe", 1, full_shade=1.0)[0]
    assert all(token.value is None and token.shade == 0.0 for token in joint.tokens)
    assert shading_scale(hypotheses, "joint_total_uncertainty_pe") == 1.0
