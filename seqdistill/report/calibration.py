"""Calibration along the references: a table with intervals, and diagrams.

The table shows each system as it is and, where a validation set was scored, at the temperature that
was fitted on it: what one number alone would make of the system.
"""

from collections.abc import Sequence
from typing import Any

from seqdistill.assessment.bootstrap import Comparison
from seqdistill.assessment.numbers import Numbers, compare_numbers
from seqdistill.assessment.token_calibration import BIASED
from seqdistill.report import plots
from seqdistill.report.quality import scaled
from seqdistill.report.results import SystemResult
from seqdistill.report.tables import format_p_value

#: Number → column, scale and pattern.
_COLUMNS = {
    "nll": ("NLL, nats/token", 1.0, "{:.3f}"),
    "ece_equal_mass": ("ECE (equal mass), %", 100.0, "{:.2f}"),
    "ece_equal_width": ("ECE (equal width), %", 100.0, "{:.2f}"),
}


def calibration_section(results: Sequence[SystemResult]) -> dict[str, Any] | None:
    """Return columns, rows, reliability diagrams and signatures; None without scored references."""
    shown = [
        (index % plots.SERIES, result, result.calibration_numbers)
        for index, result in enumerate(results)
        if result.calibration_numbers is not None
    ]
    if not shown:
        return None
    rows, signatures = [], []
    for series, result, numbers in shown:
        row = {"name": result.name, "series": series, "temperature": None}
        rows.append(row | {"cells": _cells(numbers, None)})
        signatures += [numbers.signatures[name] for name in _COLUMNS]
        if result.temperature is not None and result.tempered_numbers is not None:
            found = result.temperature.temperature
            change = compare_numbers(result.tempered_numbers, numbers, pivotal=BIASED)
            interval = None if found.low is None else f"{found.low:.3f}–{found.high:.3f}"
            row["temperature"] = {"value": f"{found.value:.3f}", "interval": interval}
            rows.append(row | {"cells": _cells(result.tempered_numbers, change)})
            signatures += [result.tempered_numbers.signatures[name] for name in _COLUMNS]
            signatures.append(result.temperature.signature)
    return {
        "columns": [label for label, _, _ in _COLUMNS.values()],
        "rows": rows,
        "is_tempered": any(row["temperature"] for row in rows),
        "problems": {
            result.name: result.temperature_problem
            for _, result, _ in shown
            if result.temperature_problem is not None
        },
        "panels": [
            {
                "title": result.name,
                "svg": plots.reliability_plot(
                    result.calibration, series=series, key=f"rel{number}"
                ),
            }
            for number, (series, result, _) in enumerate(shown)
            if result.calibration is not None
        ],
        "signatures": {"calibration": list(dict.fromkeys(signatures))},
    }


def _cells(
    numbers: Numbers, change: dict[str, Comparison | None] | None
) -> list[dict[str, Any] | None]:
    """A cell a column; with what changed, its p-value."""
    cells: list[dict[str, Any] | None] = []
    for name, (_, scale, pattern) in _COLUMNS.items():
        found = scaled(numbers, name, scale)
        if found is None:
            cells.append(None)
            continue
        interval = None
        if found.low is not None and found.high is not None:
            interval = f"{pattern.format(found.low)}–{pattern.format(found.high)}"
        comparison = change and change[name]
        p_value = format_p_value(comparison) if comparison else None
        cells.append({"value": pattern.format(found.value), "interval": interval, "p": p_value})
    return cells
