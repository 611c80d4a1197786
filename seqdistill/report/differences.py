"""Differences between systems, of detection and rejection here, with intervals and p-values."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqdistill.assessment.bootstrap import Comparison
from seqdistill.assessment.detection import compare_detection
from seqdistill.assessment.error_detection import ErrorResult
from seqdistill.assessment.hypothesis_sets import uncertainty_of
from seqdistill.assessment.numbers import compare_numbers
from seqdistill.hypotheses import Hypothesis
from seqdistill.report import plots
from seqdistill.report.inputs import ReportInput
from seqdistill.report.results import SystemResult
from seqdistill.report.tables import format_p_value


def detection_differences(
    results: Sequence[SystemResult], sets: Sequence[str], report: ReportInput
) -> dict[str, Any] | None:
    """AUROC of every system less that of the first, by the measures that plots show.

    Systems are compared by the paired bootstrap, so where they have the same sentences only; None
    where there is nothing to compare.
    """
    rows = []
    first = results[0]
    for index, other in enumerate(results[1:], start=1):
        for measure in [m for m in first.shown_measures if m in other.measures]:
            cells = [_detection(first, other, measure, name, report) for name in sets]
            rows.append(difference_row(other, index, measure, [(cell, 100.0) for cell in cells]))
    return differences_table(first, rows, list(sets))


def rejection_differences(
    results: Sequence[SystemResult], found: Mapping[str, Mapping[str, ErrorResult]]
) -> dict[str, Any] | None:
    """PRR of every system less that of the first one, as :func:`detection_differences`.

    Args:
        results: the systems.
        found: system → measure → its numbers; resamples of the same sentences are paired.
    """
    known = [(i, result) for i, result in enumerate(results) if result.name in found]
    if not known:
        return None
    rows = []
    first = known[0][1]
    for index, other in known[1:]:
        if not same_sentences(first.system.in_domain, other.system.in_domain):
            continue
        for measure in [m for m in first.shown_measures if m in found[other.name]]:
            pair = found[other.name][measure], found[first.name][measure]
            compared = compare_numbers(*pair).get("prr")
            rows.append(difference_row(other, index, measure, [(compared, 100.0)]))
    return differences_table(first, rows, ["PRR"])


def _detection(
    first: SystemResult, other: SystemResult, measure: str, name: str, report: ReportInput
) -> Comparison | None:
    mine, theirs = (
        (result.system.in_domain, result.system.out_of_domain.get(name))
        for result in (other, first)
    )
    if mine[1] is None or theirs[1] is None:
        return None
    if not (same_sentences(mine[0], theirs[0]) and same_sentences(mine[1], theirs[1])):
        return None
    scores = [uncertainty_of(rows, measure) for rows in (mine[0], mine[1], theirs[0], theirs[1])]
    compared = compare_detection(*scores, resamples=report.resamples, seed=report.seed)
    return compared["auroc"]


def same_sentences(mine: Sequence[Hypothesis], theirs: Sequence[Hypothesis]) -> bool:
    """Say whether both are about the same sentences, in the same order."""
    return [(h.id, h.source) for h in mine] == [(h.id, h.source) for h in theirs]


def difference_row(
    result: SystemResult,
    index: int,
    measure: str | None,
    cells: Sequence[tuple[Comparison | None, float]],
) -> dict[str, Any]:
    """Return one row of a table of differences.

    Args:
        result: the system.
        index: its place among the systems.
        measure: that is compared; None where it is the system itself.
        cells: a comparison a column, and the factor from its numbers to points.
    """
    return {
        "name": result.name,
        "series": index % plots.SERIES,
        "measure": measure,
        "cells": [None if cell is None else _cell(cell, scale) for cell, scale in cells],
    }


def differences_table(
    first: SystemResult, rows: Sequence[dict[str, Any]], columns: list[str]
) -> dict[str, Any] | None:
    """Return a table of the rows that compare anything; None without any."""
    rows = [row for row in rows if any(row["cells"])]
    if not rows:
        return None
    of_measures = any(row["measure"] is not None for row in rows)
    return {"first": first.name, "columns": columns, "rows": rows, "of_measures": of_measures}


def _cell(comparison: Comparison, scale: float) -> dict[str, Any]:
    """A difference in points, its interval and its p-value."""
    difference = comparison.difference
    interval = None
    if difference.low is not None and difference.high is not None:
        interval = f"{scale * difference.low:+.1f} … {scale * difference.high:+.1f}"
    return {
        "value": f"{scale * difference.value:+.1f}",
        "interval": interval,
        "p": format_p_value(comparison),
    }
