"""``results.md``: the numbers of ``results.json`` as Markdown, with all it takes to redo them."""

from collections.abc import Callable, Sequence
from typing import Any

from recipes.common.progress import duration
from seqdistill.assessment.group_numbers import SPREADS
from seqdistill.assessment.groups import GROUPINGS
from seqdistill.report import format_table
from seqdistill.report.tables import symbol_of

NONE = "–"
"""What a cell without a number shows."""


def results_markdown(results: dict[str, Any]) -> str:
    """Return the whole document; its part before the first ``##`` is what a run prints."""
    scale = "" if results["scale"] == "full" else f" (scale {results['scale']})"
    parts = [
        f"# {results['title']}{scale}",
        summary_table(results),
        f"{_QUALITY_NOTES[_is_about_words(results)]} of the test set; nll (nats a token) and ECE "
        "along its references; AUROC in %, mean over the out-of-domain sets, of total (TU) and "
        "knowledge uncertainty (RMI); PRR of TU; ρ, Spearman of token TU with the reference "
        "system's.",
        *(
            f"The set {name} is left out: {reason}."
            for name, reason in results.get("left_out", {}).items()
        ),
        "## AUROC of every measure on every set (%, with 95 % intervals)",
        *(auroc_table(results, measure) for measure in results["measures"]),
        "## Prediction rejection ratio on the test set (%, with 95 % intervals)",
        rejection_table(results),
        *quality_section(results),
        *published_section(results),
        "## Calibration along the references (95 % intervals), and at a temperature fitted on the "
        "validation set",
        calibration_table(results),
        "## Likeness to the reference system, token by token",
        fidelity_table(results),
        *groups_section(results),
        "## How these numbers were made",
        provenance(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary_table(results: dict[str, Any]) -> str:
    """One row a system: what most people look for."""
    words = _is_about_words(results)
    quality_header = ["WER", "S / I / D", "CER"] if words else ["BLEU", "chrF2"]
    header = ["system", *quality_header, "nll", "ECE", "AUROC TU", "AUROC RMI", "PRR TU", "ρ TU"]
    rows = []
    for system in results["systems"].values():
        quality, likeness = system["quality"]["test"], system["fidelity"]
        rejection = system["rejection"].get("total_uncertainty", {}).get("prr")
        rows.append(
            [
                system["label"],
                *(_word_cells(quality) if words else _score_cells(quality)),
                _number(system["likelihood"] and system["likelihood"]["nll"], 3),
                _number(system["calibration"] and system["calibration"]["ece"], 3),
                _number(_mean_auroc(system, "total_uncertainty"), 1, 100),
                _number(_mean_auroc(system, "reverse_mutual_information"), 1, 100),
                _number(rejection and rejection["value"], 1, 100),
                _number(likeness and likeness["spearman"].get("total_uncertainty"), 2),
            ]
        )
    return format_table(header, rows, "markdown")


def auroc_table(results: dict[str, Any], measure: str) -> str:
    """One measure: systems by sets."""
    rows = []
    for system in results["systems"].values():
        found = {entry["set"]: entry["auroc"] for entry in _entries(system, measure)}
        if found:
            rows.append(
                [system["label"], *(_interval(found.get(name)) for name in results["sets"])]
            )
    if not rows:
        return ""
    return format_table([f"{symbol_of(measure)}", *results["sets"]], rows, "markdown")


def rejection_table(results: dict[str, Any]) -> str:
    """Systems by the measures that the recipe shows."""
    rows = [
        [
            system["label"],
            *(
                _interval(system["rejection"].get(measure, {}).get("prr"))
                for measure in results["measures"]
            ),
        ]
        for system in results["systems"].values()
    ]
    header = ["system", *(symbol_of(measure) for measure in results["measures"])]
    return format_table(header, rows, "markdown")


def quality_section(results: dict[str, Any]) -> list[str]:
    """Heading, systems by the sets that have references, and the signatures of the scores."""
    systems = list(results["systems"].values())
    words = _is_about_words(results)
    heading = "Word errors on every set (%, with 95 % intervals)"
    parts = [f"## {heading if words else 'Quality on every set (BLEU / chrF2)'}"]
    names = ("test", *results.get("tests", {}), *results["sets"])
    sets = [name for name in names if any(s["quality"][name] for s in systems)]
    if not sets:
        return [*parts, "No set has references."]
    scored = next(s["quality"][sets[0]] for s in systems if s["quality"][sets[0]])
    tables = (
        {"WER": _rate("wer"), "S / I / D": _parts_of_wer, "SER": _rate("ser"), "CER": _rate("cer")}
        if words
        else {"system": _quality}
    )
    for title, cell in tables.items():
        rows = [[s["label"], *(cell(s["quality"][name]) for name in sets)] for s in systems]
        parts.append(format_table([title, *sets], rows, "markdown"))
    signed = scored["rates"] if words else scored
    names = ("wer", "cer") if words else ("bleu", "chrf")
    known = [name for name in names if signed[name] is not None]
    parts.append("\n".join(f"- {name}: `{signed[name]['signature']}`" for name in known))
    return parts


def published_section(results: dict[str, Any]) -> list[str]:
    """Others' numbers with ours beside them; nothing where the recipe names none."""
    published = results.get("published", [])
    if not published:
        return []
    rows = []
    for one in published:
        system = results["systems"][one["system"]]
        score = system["quality"][one["set"]]
        ours = _number(score and score[one["score"]]["value"], 1)
        name = {"bleu": "BLEU", "chrf": "chrF2"}[one["score"]]
        what = f"{name}, {one['set']}"
        rows.append(
            [one["what"], what, _number(one["value"], 1), ours, system["label"], one["source"]]
        )
    header = ["published", "score", "theirs", "ours", "of", "theirs is from"]
    return ["## Beside published numbers", format_table(header, rows, "markdown")]


def calibration_table(results: dict[str, Any]) -> str:
    """Systems by likelihood and calibration error, as they are and at their temperature."""
    rows, problems = [], []
    for system in results["systems"].values():
        calibration = system["calibration"] or {}
        numbers, fitted = calibration.get("numbers"), calibration.get("temperature")
        if numbers is not None:
            rows.append([system["label"], "1", *_calibration_cells(numbers)])
        if fitted is not None:
            cells = _calibration_cells(fitted["numbers"])
            rows.append([system["label"], _estimate(fitted, 3), *cells])
        elif calibration.get("temperature_problem"):
            problems.append(f"- {system['label']}: {calibration['temperature_problem']}")
    if not rows:
        return "No references were scored."
    header = ["system", "T", "nll", "ECE (mass), %", "ECE (width), %"]
    table = format_table(header, rows, "markdown")
    return "\n".join([table, *(["", "Without a temperature:", "", *problems] if problems else [])])


def _calibration_cells(numbers: dict[str, Any]) -> list[str]:
    eces = [_estimate(numbers[f"ece_equal_{binning}"], 2, 100) for binning in ("mass", "width")]
    return [_estimate(numbers["nll"], 3), *eces]


def fidelity_table(results: dict[str, Any]) -> str:
    """Systems by token measures; the reference system has no row."""
    rows = []
    for system in results["systems"].values():
        likeness = system["fidelity"]
        if likeness is None:
            continue
        cells = [
            _estimate(likeness.get("kl_divergence"), 3),
            _interval(likeness.get("top1_agreement")),
            _number(likeness["log_prob_gap"], 3),
        ]
        cells += [_number(likeness["spearman"].get(name), 3) for name in _FIDELITY_MEASURES]
        rows.append([system["label"], *cells])
    header = ["system", "KL(p_ref‖p)", "same top piece, %", "mean \\|Δ ln p\\|"]
    header += [f"ρ {symbol_of(m)}" for m in _FIDELITY_MEASURES]
    return format_table(header, rows, "markdown") if rows else ""


def groups_section(results: dict[str, Any]) -> list[str]:
    """Where systems differ from the reference system: a table for every kind of groups."""
    records = results.get("groups") or []
    if not records:
        return []
    parts = [
        "## Where systems differ from the reference system",
        "Missed and false words (change in %), CEV and SDE over all groups; and along the "
        "references the share of tokens with the same most probable piece (%) and KL(p_ref‖p) "
        "(nats). Intervals are in the report.",
    ]
    for record in records:
        for found, columns in (
            (record["errors"], (("missed_change", 1, 100), ("false_change", 1, 100))),
            (record["likeness"], (("top1_agreement", 1, 100), ("kl_divergence", 3, 1))),
        ):
            if found:
                parts.append(_groups_table(results, record["by"], found, columns))
    return parts


def _groups_table(
    results: dict[str, Any],
    by: str,
    found: dict[str, Any],
    columns: Sequence[tuple[str, int, float]],
) -> str:
    """Rows are groups, columns systems."""
    first = next(iter(found.values()))
    rows = []
    for index, group in enumerate(first["groups"]):
        cells = [
            " / ".join(
                _number((value := one["groups"][index].get(name)) and value["value"], digits, scale)
                for name, digits, scale in columns
            )
            for one in found.values()
        ]
        rows.append([group["group"], str(group["sentences"]), *cells])
    for name, label in zip(SPREADS, ("CEV", "SDE"), strict=True):
        if name in first:
            rows.append([label, "", *(_estimate(one[name], 4) for one in found.values())])
    labels = [results["systems"][system]["label"] for system in found]
    return format_table([GROUPINGS[by], "sentences", *labels], rows, "markdown")


_FIDELITY_MEASURES = (
    "total_uncertainty",
    "total_uncertainty_base",
    "data_uncertainty",
    "mutual_information",
    "epkl",
    "reverse_mutual_information",
)


def provenance(results: dict[str, Any]) -> str:
    """Command, commit, hardware, versions and wall time."""
    hardware, steps = results["hardware"], results["steps"]
    commits = sorted({step["commit"] or "unknown" for step in steps})
    by_stage: dict[str, float] = {}
    for step in steps:
        by_stage[step["stage"]] = by_stage.get(step["stage"], 0.0) + (step["seconds"] or 0.0)
    times = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in by_stage.items())
    accelerator = f", {hardware['accelerator']}" if hardware["accelerator"] else ""
    packages = ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v)
    scale = "" if results["scale"] == "full" else f" --set scale={results['scale']}"
    lines = [
        f"- command: `python -m recipes.common.run recipes/{results['recipe']}{scale}` (the exact "
        "command, commit and wall time of every step are in `results.json`)",
        f"- commit: {', '.join(commits)}; seed {results['seed']}",
        f"- hardware: {hardware['processor']}, {hardware['cores']} cores{accelerator}",
        f"- versions: {packages}",
        f"- wall time, summed over steps (several may have run at once): {times}",
    ]
    resumed = [step["name"] for step in steps if step["resumed"]]
    if resumed:
        lines.append(f"- interrupted and resumed, last part timed only: {', '.join(resumed)}")
    return "\n".join(lines)


def _entries(system: dict[str, Any], measure: str) -> list[dict[str, Any]]:
    return [entry for entry in system["ood"] or [] if entry["measure"] == measure]


def _mean_auroc(system: dict[str, Any], measure: str) -> float | None:
    values = [entry["auroc"]["value"] for entry in _entries(system, measure)]
    return sum(values) / len(values) if values else None


_QUALITY_NOTES = {
    False: "BLEU and chrF2",
    True: "WER, its substitutions, insertions and deletions, and CER, all in %,",
}


def _is_about_words(results: dict[str, Any]) -> bool:
    """Whether the recipe is about transcripts, whose quality are word errors."""
    return bool(results.get("sentence_metric") == "wer")


def _score_cells(score: dict[str, Any] | None) -> list[str]:
    values = [None if score is None else score[name]["value"] for name in ("bleu", "chrf")]
    return [_number(value, 1) for value in values]


def _quality(score: dict[str, Any] | None) -> str:
    return NONE if score is None else " / ".join(_score_cells(score))


def _word_cells(errors: dict[str, Any] | None) -> list[str]:
    return [_share(errors, "wer"), _parts_of_wer(errors), _share(errors, "cer")]


def _share(errors: dict[str, Any] | None, rate: str) -> str:
    return _number(None if errors is None else errors["rates"][rate]["value"], 1, 100)


def _rate(name: str) -> Callable[[dict[str, Any] | None], str]:
    return lambda errors: _interval(errors and errors["rates"][name])


def _parts_of_wer(errors: dict[str, Any] | None) -> str:
    if errors is None or errors["rates"]["wer"] is None:
        return NONE
    return " / ".join(_share(errors, name) for name in ("substitutions", "insertions", "deletions"))


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return NONE if value is None else f"{factor * value:.{digits}f}"


def _interval(estimate: dict[str, Any] | None) -> str:
    return _estimate(estimate, 1, 100)


def _estimate(estimate: dict[str, Any] | None, digits: int, factor: float = 1.0) -> str:
    if estimate is None:
        return NONE
    value, low, high = (_number(estimate[k], digits, factor) for k in ("value", "low", "high"))
    return value if estimate["low"] is None else f"{value} [{low}, {high}]"
