"""The report: one HTML page that needs nothing beside itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import seqdistill
from seqdistill.assessment.detection import roc_curve
from seqdistill.assessment.hypothesis_sets import describe_model, order_measures, uncertainty_of
from seqdistill.assessment.signatures import bootstrap_fields, sign
from seqdistill.errors import InputError
from seqdistill.files import atomic_write
from seqdistill.report import plots
from seqdistill.report.calibration import calibration_section
from seqdistill.report.differences import detection_differences
from seqdistill.report.errors import errors_section, percent
from seqdistill.report.examples import most_uncertain, shadable, shading_scale
from seqdistill.report.explorer import PAGE_BYTES, explorer_json
from seqdistill.report.fidelity import fidelity_section
from seqdistill.report.gradients import gradients_section
from seqdistill.report.groups import groups_section
from seqdistill.report.inputs import ReportInput
from seqdistill.report.quality import quality_table
from seqdistill.report.results import SystemResult, compute
from seqdistill.report.tables import DETECTION_METRICS, best_measures, symbol_of, unit_of
from seqdistill.uncertainty.measures import MEASURES

_FOLDER = Path(__file__).parent
#: Where the sentences go once it is known how much room there is; texts cannot hold it, as their
#: "<" is written "&lt;".
_SENTENCES = "<sentences>"
_LEAST_ROOM = 1_000_000  # bytes for them, however large the rest is


def write_report(report: ReportInput, path: str | Path, *, overwrite: bool = False) -> None:
    """Compute a report and write it as one HTML file.

    Args:
        report: systems and settings.
        path: the file to write.
        overwrite: replace an existing file.

    Raises:
        InputError: the input is unusable, a package is missing, or the file exists already.
    """
    if Path(path).exists() and not overwrite:  # said before the work is done, not after
        raise InputError(f"{path} exists already; pass --overwrite to replace it")
    page = render_report(report)
    with atomic_write(path, overwrite=overwrite) as handle:
        handle.write(page)


def render_report(report: ReportInput) -> str:
    """Compute a report and return it as one HTML page; the same input gives the same page.

    Raises:
        InputError: the input is unusable, or jinja2 or matplotlib is missing.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise InputError('the report needs jinja2: pip install "seqdistill[report]"') from error
    results = compute(report)
    errors = errors_section(results, report)
    calibration = calibration_section(results)
    fidelity = fidelity_section(results)
    groups = groups_section(results, report)
    gradients = None if report.gradients is None else gradients_section(report.gradients)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    environment.globals["symbol_of"] = symbol_of
    page = environment.get_template("page.html").render(
        title=report.title,
        css=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        version=seqdistill.__version__,
        systems=_systems(results),
        quality=quality_table(results, resamples=report.resamples, seed=report.seed),
        detection=_detection(results),
        detection_differences=detection_differences(results, _set_names(results), report),
        roc=_roc(results),
        histograms=_histograms(results),
        rejection=errors,
        calibration=calibration,
        fidelity=fidelity,
        groups=groups,
        gradients=gradients,
        explorer=_SENTENCES if any(result.measures for result in results) else None,
        examples=_examples(results, report.examples),
        definitions=_definitions(results),
        settings=dict(report.settings),
        signatures=_signatures(results, report)
        | (errors["signatures"] if errors else {})
        | (calibration["signatures"] if calibration else {})
        | (fidelity["signatures"] if fidelity else {})
        | (groups["signatures"] if groups else {})
        | (gradients["signatures"] if gradients else {}),
        resamples=report.resamples,
    )
    room = max(_LEAST_ROOM, PAGE_BYTES - len(page.encode("utf-8")))
    sentences = explorer_json(
        results,
        report.quality_metric,
        normalisation=report.normalisation,
        series=plots.SERIES,
        budget=room,
    )
    return page if sentences is None else page.replace(_SENTENCES, sentences, 1)


def _systems(results: Sequence[SystemResult]) -> list[dict[str, Any]]:
    return [
        {
            "name": result.name,
            "series": index % plots.SERIES,
            "model": describe_model(result.model),
            "sentences": len(result.system.in_domain),
            "sets": {name: len(rows) for name, rows in result.system.out_of_domain.items()},
            "shown": [symbol_of(measure) for measure in result.shown_measures],
        }
        for index, result in enumerate(results)
    ]


def _detection(results: Sequence[SystemResult]) -> list[dict[str, Any]]:
    """One table a metric: a group of rows a system, a row a measure, a column a set."""
    sets = _set_names(results)
    if not sets:
        return []
    tables = []
    for metric, (label, higher) in DETECTION_METRICS.items():
        groups = []
        top = _best_of_columns(results, metric, higher)
        for index, result in enumerate(results):
            if result.ood is None:
                continue
            best = best_measures(result.ood, metric)
            rows = []
            for measure in result.ood.measures:
                cells: list[dict[str, Any] | None] = []
                for name in sets:
                    found = result.ood.results[measure].get(name)
                    if found is None:
                        cells.append(None)
                        continue
                    cell = percent(getattr(found, metric))
                    value = getattr(found, metric).value
                    cell["best"] = value == top[name]
                    cell["own_best"] = measure in best[name] and not cell["best"]
                    cell["good"] = f"{max(0.0, 2 * value - 1) if higher else 1 - value:.3f}"
                    cells.append(cell)
                rows.append({"measure": measure, "cells": cells})
            groups.append({"name": result.name, "series": index % plots.SERIES, "rows": rows})
        tables.append(
            {"metric": metric, "label": label, "higher": higher, "sets": sets, "groups": groups}
        )
    return tables


def _best_of_columns(
    results: Sequence[SystemResult], metric: str, higher: bool
) -> dict[str, float]:
    """The best value of each set over all systems and measures."""
    columns: dict[str, list[float]] = {}
    for result in results:
        for row in result.ood.results.values() if result.ood else ():
            for name, found in row.items():
                columns.setdefault(name, []).append(getattr(found, metric).value)
    return {name: max(found) if higher else min(found) for name, found in columns.items()}


def _roc(results: Sequence[SystemResult]) -> list[dict[str, str]]:
    panels = []
    for number, name in enumerate(_set_names(results)):
        curves = []
        for index, result in enumerate(results):
            if name not in result.system.out_of_domain:
                continue
            for order, measure in enumerate(result.shown_measures):
                curve = roc_curve(
                    uncertainty_of(result.system.in_domain, measure),
                    uncertainty_of(result.system.out_of_domain[name], measure),
                )
                curves.append(plots.Curve(curve.fpr, curve.tpr, index, dashed=order > 0))
        svg = plots.curves_plot(
            curves,
            x_label="in-domain flagged (FPR)",
            y_label="out-of-domain flagged (TPR)",
            key=f"roc{number}",
            unit_square=True,
        )
        panels.append({"title": name, "svg": svg})
    return panels


def _histograms(results: Sequence[SystemResult]) -> list[dict[str, Any]]:
    groups = []
    for index, result in enumerate(results):
        if not result.system.out_of_domain or not result.shown_measures:
            continue
        measure = result.shown_measures[0]
        inside = uncertainty_of(result.system.in_domain, measure)
        panels = [
            {
                "title": name,
                "svg": plots.histogram_plot(
                    inside,
                    uncertainty_of(rows, measure),
                    x_label=", ".join(filter(None, (symbol_of(measure), unit_of(measure)))),
                    key=f"hist{index}x{number}",
                ),
            }
            for number, (name, rows) in enumerate(result.system.out_of_domain.items())
        ]
        groups.append({"name": result.name, "series": index % plots.SERIES, "panels": panels})
    return groups


def _examples(results: Sequence[SystemResult], count: int) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for index, result in enumerate(results):
        measure = next(
            (m for m in result.shown_measures if shadable(m)),
            next(iter(result.shown_measures), None),
        )
        if measure is None or count == 0:
            continue
        system = result.system
        full = shading_scale(system.in_domain, measure)
        sets = {"in-domain": system.in_domain, **system.out_of_domain}
        groups.append(
            {
                "name": result.name,
                "series": index % plots.SERIES,
                "symbol": symbol_of(measure),
                "unit": unit_of(measure),
                "full": f"{full:.3g}",
                "shaded": shadable(measure),
                "sets": {
                    name: most_uncertain(rows, measure, count, full_shade=full)
                    for name, rows in sets.items()
                },
            }
        )
    return groups


def _definitions(results: Sequence[SystemResult]) -> list[dict[str, str]]:
    shown = order_measures({measure for result in results for measure in result.measures})
    return [
        {
            "name": name,
            "symbol": MEASURES[name].symbol,
            "kind": MEASURES[name].kind,
            "estimate": MEASURES[name].estimate,
            "formula": MEASURES[name].formula,
            "source": MEASURES[name].source,
        }
        for name in shown
        if name in MEASURES
    ]


def _signatures(results: Sequence[SystemResult], report: ReportInput) -> dict[str, list[str]]:
    """Signatures by what they sign, each said once."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.quality is not None:
            found.setdefault("BLEU", []).append(result.quality.bleu.signature)
            found.setdefault("chrF", []).append(result.quality.chrf.signature)
            drawn = bootstrap_fields(report.resamples, report.seed)
            interval = sign({"metric": "bleu+chrf", "n": result.quality.n, **drawn})
            found.setdefault("intervals of quality", []).append(interval)
        if result.word_errors is not None:
            for name in ("wer", "cer"):
                signature = result.word_errors.rates.signatures[name]
                found.setdefault(name.upper(), []).append(signature)
        if result.likelihood is not None:
            found.setdefault("NLL", []).append(result.likelihood.signature)
            drawn = bootstrap_fields(report.resamples, report.seed)
            interval = sign({"metric": "nll", "n": result.likelihood.n_sentences, **drawn})
            found.setdefault("intervals of quality", []).append(interval)
        if result.ood is not None:
            for row in result.ood.results.values():
                # The measure stands beside each number in the table already.
                found.setdefault("detection", []).extend(
                    f"set:{name}|" + detection.signature.split("|", 1)[1]
                    for name, detection in row.items()
                )
        for rejection in (result.rejection or {}).values():
            found.setdefault("rejection", []).append(rejection.signature.split("|", 1)[1])
    return {name: list(dict.fromkeys(signatures)) for name, signatures in found.items()}


def _set_names(results: Sequence[SystemResult]) -> list[str]:
    return list(dict.fromkeys(name for r in results for name in r.system.out_of_domain))
