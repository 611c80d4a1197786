"""Does a student's uncertainty say what the ensemble's says? Sentence by sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.correlation import spearman
from seqdistill.assessment.hypothesis_sets import order_measures
from seqdistill.hypotheses import Hypothesis
from seqdistill.report import plots
from seqdistill.report.results import SystemResult
from seqdistill.report.tables import symbol_of, unit_of


def fidelity_section(results: Sequence[SystemResult]) -> dict[str, Any] | None:
    """Compare every system with the first ensemble; None where there is nothing to compare.

    Systems are compared on scored references where both have them: there both speak about the same
    words. Else on their own translations of the same sentences, and the page says so.
    """
    ensembles = [i for i, result in enumerate(results) if result.model.kind == "ensemble"]
    if not ensembles:
        return None
    teacher = results[ensembles[0]]
    panels: list[dict[str, str]] = []
    columns: list[tuple[SystemResult, int, int, dict[str, float | None]]] = []
    forced = True
    for index, student in enumerate(results):
        pairs, on_references = _pairs(teacher, student)
        shared = [m for m in teacher.measures if m in student.measures]
        if student is teacher or len(pairs) < 2 or not shared:
            continue
        forced &= on_references
        correlations: dict[str, float | None] = {}
        for measure in order_measures(shared):
            x, y = _values(pairs, measure)
            correlations[measure] = spearman(x, y) if x.size > 1 else None
        columns.append((student, index, len(pairs), correlations))
        for measure in [m for m in student.shown_measures if m in shared]:
            x, y = _values(pairs, measure)
            if not x.size:
                continue
            unit = unit_of(measure)
            svg = plots.scatter_plot(
                x,
                y,
                x_label=f"{teacher.name}, {unit}",
                y_label=f"{student.name}, {unit}",
                series=index,
                key=f"fid{index}x{len(panels)}",
            )
            rho = correlations[measure]
            note = "" if rho is None else f", ρ = {rho:.2f}"
            panels.append({"title": f"{student.name}: {symbol_of(measure)}{note}", "svg": svg})
    if not columns:
        return None
    rows = []
    for measure in order_measures({m for *_, found in columns for m in found}):
        values = [found.get(measure) for *_, found in columns]
        known = [value for value in values if value is not None]
        rows.append({"measure": measure, "cells": [_cell(value, known) for value in values]})
    return {
        "teacher": teacher.name,
        "systems": [
            {"name": student.name, "series": index % plots.SERIES, "n": n}
            for student, index, n, _ in columns
        ],
        "rows": rows,
        "panels": panels,
        "forced": forced,
    }


def _cell(value: float | None, known: Sequence[float]) -> dict[str, Any] | None:
    if value is None:
        return None
    return {
        "value": f"{value:.3f}",
        "interval": None,
        "best": len(known) > 1 and value == max(known),
        "own_best": False,
        "good": f"{max(0.0, value):.3f}",
    }


def _pairs(
    teacher: SystemResult, student: SystemResult
) -> tuple[list[tuple[Hypothesis, Hypothesis]], bool]:
    """The same sentences of both, and whether they are scored references of the same tokens."""
    ours = {row.id: row for row in teacher.system.forced}
    pairs = [(ours[row.id], row) for row in student.system.forced if row.id in ours]
    # Different vocabularies cut one text into different tokens.
    if pairs and all(one.pieces == other.pieces for one, other in pairs):
        return pairs, True
    ours = {row.id: row for row in teacher.system.in_domain}
    return [(ours[row.id], row) for row in student.system.in_domain if row.id in ours], False


def _values(
    pairs: Sequence[tuple[Hypothesis, Hypothesis]], measure: str
) -> tuple[FloatArray, FloatArray]:
    """The measure of both sides where both have it, each (n,)."""
    both = [
        (one.uncertainty[measure], other.uncertainty[measure])
        for one, other in pairs
        if measure in one.uncertainty and measure in other.uncertainty
    ]
    columns = np.array(both, dtype=np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]
