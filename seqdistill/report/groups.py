"""Where do students err more than their ensemble? By length, by rare words, by given groups."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqdistill.assessment.forced_sets import forced_set, require_same_tokens
from seqdistill.assessment.group_errors import assess_group_errors
from seqdistill.assessment.group_fidelity import assess_group_fidelity
from seqdistill.assessment.group_numbers import SPREADS, GroupResult
from seqdistill.assessment.groups import (
    GROUPINGS,
    Grouping,
    GroupOptions,
    count_words,
    make_grouping,
)
from seqdistill.assessment.hypothesis_files import HypothesisSet
from seqdistill.errors import InputError
from seqdistill.report import plots
from seqdistill.report.inputs import ReportInput
from seqdistill.report.quality import estimate_cell, scaled
from seqdistill.report.results import SystemResult

#: Number of a group → its table's title, scale, how it is written, and whether more is better.
NUMBERS: dict[str, tuple[str, float, str, bool | None]] = {
    "missed_change": ("missed words, change in %", 100.0, "{:+.1f}", False),
    "false_change": ("false words, change in %", 100.0, "{:+.1f}", False),
    "top1_agreement": ("same most probable piece, %", 100.0, "{:.1f}", True),
    "kl_divergence": ("KL(p̄‖p), nats/token", 1.0, "{:.3f}", False),
    "error_change": ("wrong most probable piece, change in %", 100.0, "{:+.1f}", False),
}
LABELS = dict(zip(SPREADS, ("CEV", "SDE"), strict=True))

Found = list[tuple[int, SystemResult, GroupResult]]


def group_options(report: ReportInput) -> list[GroupOptions]:
    """Return the groupings that a report's input allows: by length always."""
    options = [GroupOptions("length")]
    if report.training_text is not None:
        counts = count_words(report.training_text)
        options += [GroupOptions(by, training_text=counts) for by in ("word", "rarest-word")]
    if report.groups is not None:
        options.append(GroupOptions("file", groups=report.groups))
    return options


def groups_section(results: Sequence[SystemResult], report: ReportInput) -> dict[str, Any] | None:
    """Compare every system with the first ensemble by group; None where nothing can be compared."""
    teachers = [result for result in results if result.model.kind == "ensemble"]
    if not teachers:
        return None
    sections, signatures = [], []
    for by, errors, likeness in compare_by_group(results, report, teachers[0]):
        sections.append(_section(by, errors, likeness))
        signatures += _signatures([*errors, *likeness])
    if not sections:
        return None
    return {
        "teacher": teachers[0].name,
        "sections": sections,
        "signatures": {"groups": list(dict.fromkeys(signatures))},
    }


def compare_by_group(
    results: Sequence[SystemResult], report: ReportInput, teacher: SystemResult
) -> Iterator[tuple[str, Found, Found]]:
    """Compare every system with one of them, the reference system.

    Yields:
        Kind of the grouping, and what there is of errors of what was decoded and of likeness along
        the scored references, by system.

    Raises:
        InputError: groups cannot be made.
    """
    others = [(index, result) for index, result in enumerate(results) if result is not teacher]
    for options in group_options(report) if others else ():
        errors = _errors(teacher, others, options, report)
        likeness = _likeness(teacher, others, options, report)
        if errors or likeness:
            yield options.by, errors, likeness


def _errors(
    teacher: SystemResult,
    others: Sequence[tuple[int, SystemResult]],
    options: GroupOptions,
    report: ReportInput,
) -> Found:
    """Missed and false words of what was decoded."""
    reference = HypothesisSet.of(teacher.name, teacher.system.in_domain)
    if any(hypothesis.reference is None for hypothesis in reference.hypotheses):
        return []
    grouping = make_grouping(reference.hypotheses, options)
    found: Found = []
    for index, result in others:
        student = HypothesisSet.of(result.name, result.system.in_domain)
        if not _same(student, reference):
            continue
        numbers = assess_group_errors(
            student,
            reference,
            grouping,
            matching="aligned" if report.quality_metric == "wer" else "bag",
            resamples=report.resamples,
            seed=report.seed,
        )
        found.append((index, result, numbers))
    return found


def _likeness(
    teacher: SystemResult,
    others: Sequence[tuple[int, SystemResult]],
    options: GroupOptions,
    report: ReportInput,
) -> Found:
    """Agreement and divergence along the scored references."""
    if not teacher.system.forced or options.by == "word":  # tokens are pieces, not words
        return []
    reference = forced_set(HypothesisSet.of(teacher.name, teacher.system.forced))
    grouping: Grouping = make_grouping(reference.source.hypotheses, options)
    found: Found = []
    for index, result in others:
        if not result.system.forced:
            continue
        student = forced_set(HypothesisSet.of(result.name, result.system.forced))
        if student.against not in (None, teacher.model):
            continue
        try:
            require_same_tokens(student, reference)
        except InputError:  # another dictionary: its tokens are others
            continue
        numbers = assess_group_fidelity(
            student, reference, grouping, resamples=report.resamples, seed=report.seed
        )
        found.append((index, result, numbers))
    return found


def _same(student: HypothesisSet, reference: HypothesisSet) -> bool:
    mine = [(h.id, h.reference) for h in student.hypotheses]
    return mine == [(h.id, h.reference) for h in reference.hypotheses]


def _section(by: str, errors: Found, likeness: Found) -> dict[str, Any]:
    tables = [
        _table(found, name)
        for found in (errors, likeness)
        for name in NUMBERS
        if any(name in result.names for *_, result in found)
    ]
    return {
        "title": GROUPINGS[by],
        "spreads": _spreads(errors),
        "tables": tables,
    }


def _table(found: Found, name: str) -> dict[str, Any]:
    """One number: rows are groups, columns students."""
    title, scale, pattern, higher = NUMBERS[name]
    first = found[0][2]
    rows = []
    for index, label in enumerate(first.grouping.labels):
        column = [scaled(result.numbers, f"{name}:{label}", scale) for *_, result in found]
        cells = [estimate_cell(column, row, pattern, higher) for row in range(len(column))]
        rows.append({"name": label, "sentences": first.sentences[index], "cells": cells})
    return {
        "title": title,
        "systems": [
            {"name": result.name, "series": index % plots.SERIES} for index, result, _ in found
        ],
        "rows": rows,
    }


def _spreads(found: Found) -> dict[str, Any] | None:
    """How uneven the changes of errors are: rows are students."""
    if not found:
        return None
    columns = [[result.numbers.numbers[name] for *_, result in found] for name in SPREADS]
    rows = [
        {
            "name": result.name,
            "series": index % plots.SERIES,
            "cells": [estimate_cell(column, row, "{:.4f}", False) for column in columns],
        }
        for row, (index, result, _) in enumerate(found)
    ]
    return {"columns": list(LABELS.values()), "rows": rows}


def _signatures(found: Found) -> list[str]:
    """One of each number: those of other groups and of most systems are the same."""
    shown: dict[str, None] = {}
    for *_, result in found:
        signatures: Mapping[str, str] = result.numbers.signatures
        shown |= {
            signature: None
            for name, signature in signatures.items()
            if name.partition(":")[0] in (*NUMBERS, *SPREADS)
        }
    return list(shown)
