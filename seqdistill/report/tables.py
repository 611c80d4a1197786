"""Tables as text: aligned for terminals, or Markdown for documents."""

from collections.abc import Sequence
from typing import Literal

from seqdistill.assessment.bootstrap import Comparison
from seqdistill.assessment.detection import DetectionResult, Estimate
from seqdistill.assessment.hypothesis_sets import OodAssessment
from seqdistill.errors import InputError
from seqdistill.uncertainty.measures import MEASURES

Style = Literal["plain", "markdown"]

#: Detection metrics: attribute of a result → name in tables, and whether higher is better.
DETECTION_METRICS: dict[str, tuple[str, bool]] = {
    "auroc": ("AUROC", True),
    "aupr_out": ("AUPR (out)", True),
    "aupr_in": ("AUPR (in)", True),
    "fpr_at_95_tpr": ("FPR at 95 % TPR", False),
}


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], style: Style = "plain"
) -> str:
    """Return a table; the first column is aligned left, the others right.

    Args:
        header: K column names.
        rows: K cells each.
        style: ``plain`` or ``markdown``.

    Raises:
        InputError: a row has another number of cells, or the style is unknown.

    Example:
        >>> print(format_table(["set", "AUROC"], [["news", "71.0"], ["medical", "9.5"]]))
        set      AUROC
        -------  -----
        news      71.0
        medical    9.5
    """
    if style not in ("plain", "markdown"):
        raise InputError(f"unknown table style {style!r}; there are plain, markdown")
    for row in rows:
        if len(row) != len(header):
            raise InputError(f"expected {len(header)} cells a row, got {len(row)}: {list(row)}")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if style == "markdown":
        rule = [
            "-" * max(3, width) if index == 0 else "-" * max(2, width - 1) + ":"
            for index, width in enumerate(widths)
        ]
        widths = [len(cell) for cell in rule]
        lines = [_align(cells, widths, " | ") for cells in (header, rule, *rows)]
        return "\n".join(f"| {line} |" for line in lines)
    rule = ["-" * width for width in widths]
    return "\n".join(_align(cells, widths, "  ").rstrip() for cells in (header, rule, *rows))


def format_estimate(estimate: Estimate, *, scale: float = 100.0, digits: int = 1) -> str:
    """Return ``71.2 [69.9, 72.6]``, without the interval where there is none."""
    value = f"{scale * estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"


def format_p_value(comparison: Comparison) -> str | None:
    """Return ``p=0.012``, or ``p≤0.001`` where resamples can show no less; None without any."""
    if comparison.p_value is None:
        return None
    least = 1.0 / (comparison.resamples + 1)
    return f"p≤{least:.2g}" if comparison.p_value <= least else f"p={comparison.p_value:.2g}"


def ood_table(assessment: OodAssessment, metric: str = "auroc", style: Style = "plain") -> str:
    """Return one detection metric in per cent: rows are measures, columns are sets.

    The best of each column carries a star in plain tables and is bold in Markdown.

    Raises:
        InputError: the metric is unknown.
    """
    best = best_measures(assessment, metric)
    header = ["measure", *(_mark(name, False, style) for name in assessment.sets)]
    rows = []
    for measure in assessment.measures:
        cells = [measure]
        for name in assessment.sets:
            text = format_estimate(_estimate(assessment.results[measure][name], metric))
            cells.append(_mark(text, measure in best[name], style))
        rows.append(cells)
    return format_table(header, rows, style)


def best_measures(assessment: OodAssessment, metric: str) -> dict[str, set[str]]:
    """Return, for each set, the measures that reach its best value (several where they tie).

    Raises:
        InputError: the metric is unknown.
    """
    if metric not in DETECTION_METRICS:
        raise InputError(f"unknown metric {metric!r}; there are {', '.join(DETECTION_METRICS)}")
    _, higher = DETECTION_METRICS[metric]
    best: dict[str, set[str]] = {}
    for name in assessment.sets:
        values = {
            measure: _estimate(assessment.results[measure][name], metric).value
            for measure in assessment.measures
        }
        top = max(values.values()) if higher else min(values.values())
        best[name] = {measure for measure, value in values.items() if value == top}
    return best


def symbol_of(measure: str) -> str:
    """Return how tables and plots call a measure; its name where the table does not know it."""
    return MEASURES[measure].symbol if measure in MEASURES else measure


def unit_of(measure: str) -> str:
    """Return the unit of a measure, empty where it has none."""
    return "" if measure == "inverse_precision" else "nats"


def _estimate(result: DetectionResult, metric: str) -> Estimate:
    estimate: Estimate = getattr(result, metric)
    return estimate


def _mark(text: str, best: bool, style: Style) -> str:
    if style == "markdown":
        return f"**{text}**" if best else text
    return f"{text} *" if best else f"{text}  "


def _align(cells: Sequence[str], widths: Sequence[int], separator: str) -> str:
    return separator.join(
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
