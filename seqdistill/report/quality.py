"""The table of text quality: scores or word errors of each system, with intervals."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Estimate, estimate, tallies
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.hypothesis_sets import references_of
from seqdistill.assessment.numbers import Numbers, compare_numbers
from seqdistill.assessment.selective import bleu_counts, bleu_of_sums
from seqdistill.assessment.signatures import bootstrap_fields, sign
from seqdistill.assessment.word_errors import ERROR_RATES
from seqdistill.hypotheses import Hypothesis
from seqdistill.report.differences import difference_row, differences_table, same_sentences
from seqdistill.report.plots import SERIES
from seqdistill.report.results import SystemResult

#: Score → its column, from a number to what is shown, and whether higher is better.
_SCORES = (
    ("bleu", "BLEU", 1.0, True),
    ("chrf", "chrF", 1.0, True),
    *((name, f"{label}, %", 100.0, False) for name, label in ERROR_RATES.items()),
)
#: Those that systems are compared by; the parts of a word error rate are not.
_COMPARED = ("bleu", "chrf", "wer", "cer")
_ORDER = 6  # longest character n-gram of chrF2
_BETA_SQUARED = 4.0  # recall counts twice as much as precision


def quality_numbers(
    hypotheses: Sequence[Hypothesis], *, resamples: int, seed: int
) -> Numbers | None:
    """Return corpus BLEU and chrF2 with percentile bootstrap intervals over sentences.

    Both are functions of counts that add up over sentences, so each resample is one row of sums.
    Systems that translated the same sentences are resampled alike under one seed.

    Args:
        hypotheses: with references, or all without.
        resamples: how many, 0 for no interval.
        seed: of the bootstrap.

    Returns:
        Numbers ``bleu`` and ``chrf``, 0 to 100; None where there are no references.

    Raises:
        InputError: only some hypotheses have a reference.
    """
    references = references_of(hypotheses)
    if references is None:
        return None
    texts = [hypothesis.text for hypothesis in hypotheses]
    found, replicates = {}, {}
    for name, counts, score in (
        ("bleu", bleu_counts(texts, references), bleu_of_sums),
        ("chrf", chrf_counts(texts, references), chrf_of_sums),
    ):
        drawn = [score(tally @ counts) for tally in tallies(len(texts), resamples, seed)]
        value = float(score(counts.sum(axis=0, keepdims=True))[0])
        replicates[name] = np.concatenate([np.empty(0), *drawn])
        found[name] = estimate(value, replicates[name])
    n = len(texts)
    fields = {"n": n, **bootstrap_fields(resamples, seed)}
    signatures = {name: sign({"metric": name, **fields}) for name in found}
    return Numbers(dict(found), replicates, signatures, n, resamples, seed)


def scaled(found: Numbers | None, name: str, scale: float) -> Estimate | None:
    """Return a number and its interval times ``scale``; None where it does not exist."""
    number = None if found is None else found.numbers.get(name)
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


def quality_table(results: Sequence[SystemResult], *, resamples: int, seed: int) -> dict[str, Any]:
    """Return what the section shows.

    That is ``columns`` that at least one system fills, ``rows``, the best value marked, and
    ``differences`` from the first system, None where no other has the same sentences.
    """
    columns: list[tuple[str, str, bool | None, list[Estimate | None]]] = []
    of_text = [_text_numbers(result, resamples=resamples, seed=seed) for result in results]
    for name, label, scale, higher in _SCORES:
        scores = [scaled(found, name, scale) for found in of_text]
        columns.append((label, "{:.1f}", higher, scores))
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
    return {
        "columns": [column[0] for column in filled],
        "rows": rows,
        "differences": _differences(results, of_text),
    }


def _differences(
    results: Sequence[SystemResult], numbers: Sequence[Numbers | None]
) -> dict[str, Any] | None:
    """Scores of every system less those of the first, where both have the same sentences."""
    columns = [score for score in _SCORES if score[0] in _COMPARED]
    columns = [score for score in columns if any(scaled(found, score[0], 1) for found in numbers)]
    rows = []
    for index, (other, found) in enumerate(zip(results[1:], numbers[1:], strict=True), start=1):
        if found is None or numbers[0] is None:
            continue
        if same_sentences(other.system.in_domain, results[0].system.in_domain):
            compared = compare_numbers(found, numbers[0])
            cells = [(compared.get(name), scale) for name, _, scale, _ in columns]
            rows.append(difference_row(other, index, None, cells))
    return differences_table(results[0], rows, [label for _, label, _, _ in columns])


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


def _text_numbers(result: SystemResult, *, resamples: int, seed: int) -> Numbers | None:
    """Corpus scores of one system; its word errors where these were asked for."""
    if result.word_errors is not None:
        return result.word_errors.rates
    if result.quality is None:
        return None
    return quality_numbers(result.system.in_domain, resamples=resamples, seed=seed)


def _n_grams(text: str, order: int) -> Counter[str]:
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))
