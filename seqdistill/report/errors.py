"""Which sentences are wrong: rejection and retention curves, and the numbers of both."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Estimate
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.error_detection import (
    ERROR_METRICS,
    ErrorResult,
    default_acceptable_error,
    detect_errors,
)
from seqdistill.assessment.hypothesis_sets import order_measures, references_of, uncertainty_of
from seqdistill.assessment.quality import METRICS, sentence_quality, sentence_signature
from seqdistill.assessment.retention import Groups
from seqdistill.report import plots
from seqdistill.report.differences import rejection_differences
from seqdistill.report.inputs import ReportInput
from seqdistill.report.results import SystemResult

#: Numbers shown below the curves; PRR comes first and has a table of its own.
_SHOWN = ("r_auc", "f1_auc", "f1_at_95", "aurc")


def errors_section(results: Sequence[SystemResult], report: ReportInput) -> dict[str, Any] | None:
    """Return curves of the shown measures of each system and the numbers of every measure.

    None where no system has references and a measure. The numbers at an acceptable error are left
    out where some system has only acceptable or only unacceptable sentences.
    """
    chosen = [(index, result) for index, result in enumerate(results) if result.rejection]
    if not chosen:
        return None
    quality = {result.name: _quality(result, report) for _, result in chosen}
    is_rate = report.quality_metric == "wer"
    # As a quality in per cent, or for word errors as a rate.
    acceptable = 100 * default_acceptable_error(report.quality_metric)
    ratios = {
        result.name: {
            measure: found.prr
            for measure, found in (result.rejection or {}).items()
            if found.prr is not None
        }
        for _, result in chosen
    }
    found = _detect(chosen, quality, report)
    tables = [_table("PRR", ratios, higher=True)]
    for name in _SHOWN if found else ():
        metric = ERROR_METRICS[name]
        values = {
            system: {measure: row.numbers[name] for measure, row in rows.items()}
            for system, rows in found.items()
        }
        tables.append(_table(metric.label, values, higher=metric.higher))
    return {
        "panels": [_rejection_panel(index, r, report.quality_metric) for index, r in chosen],
        "retention": [
            _retention_panel(index, r, quality[r.name], "WER" if is_rate else "error")
            for index, r in chosen
        ],
        "systems": [
            {"name": result.name, "series": index % plots.SERIES} for index, result in chosen
        ],
        "tables": tables,
        "differences": rejection_differences(results, found),
        "metric": "WER" if is_rate else METRICS[report.quality_metric],
        "is_rate": is_rate,
        "acceptable": f"{acceptable if is_rate else 100 - acceptable:g}" if found else None,
        "signatures": {
            ERROR_METRICS[name].label: list(
                dict.fromkeys(
                    row.signature_of(name).split("|", 1)[1]
                    for rows in found.values()
                    for row in rows.values()
                )
            )
            for name in (_SHOWN if found else ())
        },
    }


def retention_curve(errors: FloatArray, uncertainty: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the error-retention curve: share kept against the errors that are left.

    Sentences are kept from the most certain on; those handed over count as free of error. Ties are
    straight lines, the expectation over their orders. R-AUC is (nearly) the area below.

    Args:
        errors: of each sentence, in [0, 1] where quality lies in [0, 100], shape (n,).
        uncertainty: of each sentence, shape (n,).

    Returns:
        Shares kept, from 0 to 1, and the sum of the errors kept over n, both (G + 1,) for G
        distinct uncertainties.

    Example:
        >>> [a.tolist() for a in retention_curve(np.array([0.5, 1.0]), np.array([1.0, 2.0]))]
        [[0.0, 0.5, 1.0], [0.0, 0.25, 0.75]]
    """
    sums = Groups(uncertainty).retained(errors)
    kept = np.concatenate([[0.0], sums.upto[0] / sums.n])
    return kept, np.concatenate([[0.0], np.cumsum(sums.total[0]) / sums.n])


def _quality(result: SystemResult, report: ReportInput) -> FloatArray:
    hypotheses = result.system.in_domain
    references = references_of(hypotheses) or []
    return sentence_quality(
        [h.text for h in hypotheses],
        references,
        metric=report.quality_metric,
        normalisation=report.normalisation,
    )


def _errors(quality: FloatArray) -> FloatArray:
    return np.maximum(1.0 - quality / 100.0, 0.0)


def _detect(
    chosen: Sequence[tuple[int, SystemResult]],
    quality: Mapping[str, FloatArray],
    report: ReportInput,
) -> dict[str, dict[str, ErrorResult]]:
    threshold = default_acceptable_error(report.quality_metric)
    for column in quality.values():
        acceptable = _errors(column) <= threshold + 1e-12  # as detect_errors
        if acceptable.all() or not acceptable.any():  # a threshold that separates nothing
            return {}
    return {
        result.name: detect_errors(
            quality[result.name],
            {m: uncertainty_of(result.system.in_domain, m) for m in result.measures},
            acceptable_error=threshold,
            coverages=(1.0,),
            quality_signature=sentence_signature(
                report.quality_metric, normalisation=report.normalisation
            ),
            resamples=report.resamples,
            seed=report.seed,
            n_best=result.system.n_best,
        )
        for _, result in chosen
    }


def _rejection_panel(index: int, result: SystemResult, metric: str) -> dict[str, str]:
    rejection = result.rejection or {}
    first = next(iter(rejection.values()))
    label = "sentence WER, %" if metric == "wer" else f"sentence {METRICS[metric]}"

    def shown(quality: FloatArray) -> FloatArray:
        return first.best - quality if metric == "wer" else quality

    curves = [plots.Curve(first.rejected, shown(line)) for line in (first.oracle, first.random)]
    curves += [
        plots.Curve(rejection[m].rejected, shown(rejection[m].curve), index, dashed=order > 0)
        for order, m in enumerate(result.shown_measures)
    ]
    svg = plots.curves_plot(
        curves,
        x_label="share handed over",
        y_label=label,
        key=f"rej{index}",
    )
    return {"title": result.name, "svg": svg}


def _retention_panel(
    index: int, result: SystemResult, quality: FloatArray, error: str
) -> dict[str, str]:
    errors = _errors(quality)
    ends = np.array([0.0, 1.0])
    curves = [
        plots.Curve(*retention_curve(errors, errors)),
        plots.Curve(ends, ends * errors.mean()),
    ]
    for order, measure in enumerate(result.shown_measures):
        uncertainty = uncertainty_of(result.system.in_domain, measure)
        kept, left = retention_curve(errors, uncertainty)
        curves.append(plots.Curve(kept, left, index, dashed=order > 0))
    svg = plots.curves_plot(
        curves, x_label="share kept", y_label=f"mean {error} left", key=f"ret{index}"
    )
    return {"title": result.name, "svg": svg}


def _table(
    label: str, values: Mapping[str, Mapping[str, Estimate | None]], *, higher: bool
) -> dict[str, Any]:
    """Rows are measures, columns systems; the best of each column is marked."""
    sign = 1.0 if higher else -1.0
    best = {
        name: max((sign * e.value for e in found.values() if e is not None), default=0.0)
        for name, found in values.items()
    }
    rows = []
    for measure in order_measures({measure for found in values.values() for measure in found}):
        cells: list[dict[str, Any] | None] = []
        for name, found in values.items():
            number = found.get(measure)
            if number is None:
                cells.append(None)
                continue
            share = number.value if higher else 1.0 - number.value
            cells.append(
                percent(number)
                | {
                    "best": sign * number.value == best[name],
                    "good": f"{min(1.0, max(0.0, share)):.3f}",
                }
            )
        rows.append({"measure": measure, "cells": cells})
    return {"label": label, "higher": higher, "rows": rows}


def percent(number: Estimate) -> dict[str, Any]:
    """Return what a cell shows of a share, in per cent."""
    interval = None
    if number.low is not None and number.high is not None:
        interval = f"{100 * number.low:.1f}–{100 * number.high:.1f}"
    value = f"{100 * number.value:.1f}"
    return {"value": value, "interval": interval, "best": False, "own_best": False}
