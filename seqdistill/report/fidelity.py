"""Does a student's uncertainty say what the ensemble's says? Sentence by sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.correlation import spearman
from seqdistill.assessment.hypothesis_sets import order_measures
from seqdistill.assessment.numbers import Numbers
from seqdistill.assessment.signatures import sign
from seqdistill.hypotheses import Hypothesis, ModelInfo
from seqdistill.report import plots
from seqdistill.report.quality import estimate_cell, scaled
from seqdistill.report.results import SystemResult
from seqdistill.report.tables import symbol_of, unit_of


def fidelity_section(results: Sequence[SystemResult]) -> dict[str, Any] | None:
    """Compare every system with the first ensemble; None where there is nothing to compare.

    Systems are compared on scored references where all have them: there all speak about the same
    words. Else on their own translations of the same sentences, and the page says so, as it names
    systems that share no sentences or no measure with the ensemble.
    """
    ensembles = [i for i, result in enumerate(results) if result.model.kind == "ensemble"]
    if not ensembles:
        return None
    teacher = results[ensembles[0]]
    students = [
        (index, result, [m for m in teacher.measures if m in result.measures])
        for index, result in enumerate(results)
        if result is not teacher
    ]
    forced = all(_forced_pairs(teacher, student) for _, student, _ in students)
    find = _forced_pairs if forced else _own_pairs
    panels: list[dict[str, str]] = []
    columns: list[tuple[SystemResult, int, int, dict[str, float | None]]] = []
    apart: list[str] = []
    for index, student, shared in students:
        pairs = find(teacher, student)
        if len(pairs) < 2 or not shared:
            apart.append(student.name)
            continue
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
    # A scoring against another system says nothing about this one.
    exact = [
        (index, student, student.exact_fidelity)
        for index, student, _ in students
        if student.exact_fidelity is not None and _second_model(student) == teacher.model
    ]
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
        "apart": apart,
        "exact": _exact_rows(exact),
        "signatures": {
            "fidelity": [
                *dict.fromkeys(
                    signature
                    for _, _, numbers in exact
                    for signature in numbers.signatures.values()
                ),
                *(
                    sign(
                        {
                            "metric": "spearman",
                            "to": teacher.name,
                            "ties": "shared",
                            "texts": "references" if forced else "own",
                            "n": n,
                        }
                    )
                    for n in dict.fromkeys(n for _, _, n, _ in columns)
                ),
            ]
        },
    }


def _exact_rows(found: Sequence[tuple[int, SystemResult, Numbers]]) -> list[dict[str, Any]]:
    """A row a system that was scored against the ensemble: divergence and agreement."""
    columns = [
        ([scaled(numbers, name, scale) for *_, numbers in found], pattern, higher)
        for name, scale, pattern, higher in (
            ("kl_divergence", 1.0, "{:.3f}", False),
            ("top1_agreement", 100.0, "{:.1f}", True),
        )
    ]
    return [
        {
            "name": result.name,
            "series": index % plots.SERIES,
            "cells": [
                estimate_cell(column, row, pattern, higher) for column, pattern, higher in columns
            ],
        }
        for row, (index, result, _) in enumerate(found)
    ]


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


def _second_model(student: SystemResult) -> ModelInfo | None:
    against = student.system.forced[0].against
    return None if against is None else against.model


_Pairs = list[tuple[Hypothesis, Hypothesis]]


def _forced_pairs(teacher: SystemResult, student: SystemResult) -> _Pairs:
    """Scored references of both, none where they are not the same tokens."""
    pairs = _by_number(teacher.system.forced, student.system.forced)
    # Different vocabularies cut one text into different tokens.
    return pairs if all(one.pieces == other.pieces for one, other in pairs) else []


def _own_pairs(teacher: SystemResult, student: SystemResult) -> _Pairs:
    """Translations of the same sentences, none where a number means two different sentences."""
    pairs = _by_number(teacher.system.in_domain, student.system.in_domain)
    same = all(
        one.source is None or other.source is None or one.source == other.source
        for one, other in pairs
    )
    return pairs if same else []


def _by_number(first: Sequence[Hypothesis], second: Sequence[Hypothesis]) -> _Pairs:
    ours = {row.id: row for row in first}
    return [(ours[row.id], row) for row in second if row.id in ours]


def _values(pairs: _Pairs, measure: str) -> tuple[FloatArray, FloatArray]:
    """The measure of both sides where both have it, each (n,)."""
    both = [
        (one.uncertainty[measure], other.uncertainty[measure])
        for one, other in pairs
        if measure in one.uncertainty and measure in other.uncertainty
    ]
    columns = np.array(both, dtype=np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]
