"""The table of text quality: corpus scores of each system, with bootstrap intervals."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Estimate, estimate, tallies
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.hypothesis_sets import references_of
from seqdistill.assessment.numbers import Numbers
from seqdistill.assessment.selective import bleu_counts, bleu_of_sums
from seqdistill.hypotheses import Hypothesis
from seqdistill.report.plots import SERIES
from seqdistill.report.results import SystemResult

_ORDER = 6  # longest character n-gram of chrF2
_BETA_SQUARED = 4.0  # recall counts twice as much as precision


def quality_intervals(
    hypotheses: Sequence[Hypothesis], *, resamples: int, seed: int
) -> dict[str, Estimate] | None:
    """Return corpus BLEU and chrF2 with percentile bootstrap intervals over sentences.

    Both are functions of counts that add up over sentences, so each resample is one row of sums.
    Systems that translated the same sentences are resampled alike under one seed.

    Args:
        hypotheses: with references, or all without.
        resamples: how many, 0 for no interval.
        seed: of the bootstrap.

    Returns:
        ``bleu`` and ``chrf``, 0 to 100; None where there are no references.

    Raises:
        InputError: only some hypotheses have a reference.
    """
    references = references_of(hypotheses)
    if references is None:
        return None
    texts = [hypothesis.text for hypothesis in hypotheses]
    found = {}
    for name, counts, score in (
        ("bleu", bleu_counts(texts, references), bleu_of_sums),
        ("chrf", chrf_counts(texts, references), chrf_of_sums),
    ):
        drawn = [score(tally @ counts) for tally in tallies(len(texts), resamples, seed)]
        value = float(score(counts.sum(axis=0, keepdims=True))[0])
        found[name] = estimate(value, np.concatenate([np.empty(0), *drawn]))
    return found


def scaled(found: Numbers | None, name: str, scale: float) -> Estimate | None:
    """Return a number and its interval times ``scale``; None where it does not exist."""
    number = None if found is None else found.numbers[name]
    if number is None:
        return None
    low, high = (end if end is None else scale * end for end in (number.low, number.high))
    return Estimate(scale * number.value, low, high)


def chrf_counts(hypotheses: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Count the character n-grams of chrF2 (Popović, 2015), white space left out.

    Args:
        hypotheses: n texts.
        references: n texts.

    Returns:
        Shape (n, 18): for each order 1 to 6 the n-grams of the hypothesis, those of the reference
        and those that match.
    """
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        row: list[int] = []
        one, other = ("".join(text.split()) for text in (hypothesis, reference))
        for order in range(1, _ORDER + 1):
            mine, theirs = _n_grams(one, order), _n_grams(other, order)
            # An order that the reference is too short for says nothing about the hypothesis.
            row += [mine.total() if theirs else 0, theirs.total(), (mine & theirs).total()]
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def chrf_of_sums(sums: FloatArray) -> FloatArray:
    """Return corpus chrF2, 0 to 100, of each row of summed :func:`chrf_counts`; sacreBLEU's value.

    Precision and recall are averaged over the orders that both sides have, then F with β = 2.

    Args:
        sums: shape (R, 18).

    Returns:
        Shape (R,).
    """
    mine, theirs, both = (sums[:, start::3] for start in range(3))  # each (R, 6)
    present = (mine > 0.0) & (theirs > 0.0)
    orders = np.maximum(present.sum(axis=1), 1)
    precision = (both / np.where(present, mine, 1.0) * present).sum(axis=1) / orders
    recall = (both / np.where(present, theirs, 1.0) * present).sum(axis=1) / orders
    denominator = _BETA_SQUARED * precision + recall
    score: FloatArray = 100.0 * np.divide(
        (1.0 + _BETA_SQUARED) * precision * recall,
        denominator,
        out=np.zeros(len(sums)),
        where=denominator > 0.0,
    )
    return score


def quality_table(
    results: Sequence[SystemResult], *, resamples: int, seed: int
) -> dict[str, list[Any]]:
    """Return ``columns`` that at least one system fills and ``rows``, the best value marked."""
    intervals = [
        quality_intervals(r.system.in_domain, resamples=resamples, seed=seed) if r.quality else None
        for r in results
    ]
    columns: list[tuple[str, str, bool | None, list[Estimate | None]]] = [
        (label, "{:.1f}", True, [found[name] if found else None for found in intervals])
        for name, label in (("bleu", "BLEU"), ("chrf", "chrF"))
    ]
    for label, pattern, number, scale in (
        ("NLL, nats/token", "{:.3f}", "nll", 1.0),
        ("ECE, %", "{:.2f}", "ece_equal_mass", 100.0),
    ):
        of_tokens = [scaled(r.calibration_numbers, number, scale) for r in results]
        columns.append((label, pattern, False, of_tokens))
    for name in dict.fromkeys(name for result in results for name in result.system.scores):
        given = [result.system.scores.get(name) for result in results]
        # Whether more of it is better is not known, so nothing is marked.
        further = [None if value is None else Estimate(value) for value in given]
        columns.append((name, "{:.4g}", None, further))
    filled = [column for column in columns if any(value is not None for value in column[3])]
    rows = [
        {
            "name": result.name,
            "series": index % SERIES,
            "cells": [estimate_cell(column[3], index, column[1], column[2]) for column in filled],
        }
        for index, result in enumerate(results)
    ]
    return {"columns": [column[0] for column in filled], "rows": rows}


def estimate_cell(
    column: Sequence[Estimate | None], index: int, pattern: str, higher: bool | None
) -> dict[str, Any]:
    """Return text and interval of one number of a column, and whether it is the column's best.

    Args:
        column: a number of every system, None where it does not exist.
        index: of the system.
        pattern: how a number is written.
        higher: whether more is better; None where that is not known.
    """
    found = column[index]
    if found is None:
        return {"text": "–", "best": False, "interval": None}
    known = [other.value for other in column if other is not None]
    best = None if higher is None else max(known) if higher else min(known)
    interval = None
    if found.low is not None and found.high is not None:
        interval = f"{pattern.format(found.low)}–{pattern.format(found.high)}"
    return {
        "text": pattern.format(found.value),
        "best": len(known) > 1 and found.value == best,
        "interval": interval,
    }


def _n_grams(text: str, order: int) -> Counter[str]:
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))
