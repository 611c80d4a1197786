"""Corpus scores of the sentences that are kept: BLEU or WER from sums of sentence counts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.word_alignment import AS_WRITTEN, Normalisation, count_errors
from seqdistill.errors import InputError

ORDERS = 4  # n-grams of BLEU


@dataclass(frozen=True)
class CorpusScore:
    """A score of corpora that is a function of sums over sentences.

    Attributes:
        name: ``bleu`` or ``wer``.
        counts: of each sentence, shape (n, K).
        of_sums: from sums of such rows, shape (R, K), to scores, (R,), NaN where there is none.
    """

    name: str
    counts: FloatArray
    of_sums: Callable[[FloatArray], FloatArray]


def selective_metric(metric: str) -> str:
    """Return the corpus score that goes with a sentence's: its words' errors, or BLEU."""
    return "wer" if metric == "wer" else "bleu"


def corpus_score(
    metric: str,
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str | None = None,
    normalisation: Normalisation = AS_WRITTEN,
) -> CorpusScore:
    """Return what selective scores are made of: corpus WER for ``wer``, else corpus BLEU.

    Both are in per cent; of WER less is better.

    Raises:
        InputError: the lengths differ, or sacreBLEU or jiwer is missing.
    """
    name = selective_metric(metric)
    if name == "bleu":
        counts = bleu_counts(hypotheses, references, tokenize=tokenize)
        return CorpusScore(name, counts, bleu_of_sums)
    errors = count_errors(hypotheses, references, normalisation=normalisation)
    columns = np.stack([errors.edits, errors.reference], axis=1).astype(np.float64)
    return CorpusScore(name, columns, error_rate_of_sums)


def error_rate_of_sums(sums: FloatArray) -> FloatArray:
    """Return WER in per cent from sums of edits and of reference words, which need not be whole.

    Args:
        sums: shape (R, 2).

    Returns:
        Shape (R,), NaN where the references have no word.
    """
    edits, words = sums.T
    rates: FloatArray = np.divide(edits, words, out=np.full(len(sums), np.nan), where=words > 0.0)
    return 100.0 * rates


def bleu_counts(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str | None = None
) -> FloatArray:
    """Return what corpus BLEU sums up of each sentence, as sacreBLEU counts it.

    Args:
        hypotheses: n texts.
        references: n texts, in the same order.
        tokenize: sacreBLEU's tokenizer, its default (``13a``) when None.

    Returns:
        Shape (n, 10): length of the hypothesis and of the reference, then matching n-grams and
        n-grams, each of order 1 to 4.

    Raises:
        InputError: the lengths differ or sacreBLEU is missing.
    """
    if len(hypotheses) != len(references):
        raise InputError(
            f"expected one reference a hypothesis, got {len(hypotheses)} hypotheses "
            f"and {len(references)} references"
        )
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise InputError('text quality needs sacreBLEU: pip install "sacrebleu>=2.4"') from error
    scorer = BLEU(tokenize=tokenize, effective_order=True)
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        score = scorer.sentence_score(hypothesis, [reference])
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return np.array(rows, dtype=np.float64)


def bleu_of_sums(sums: FloatArray) -> FloatArray:
    """Return corpus BLEU, 0 to 100, of each row of summed :func:`bleu_counts`.

    exp(min(0, 1 − r/h)) · (Π_n p_n)^{1/4}, where a precision without a match is 1/(2^j · n-grams)
    for the j-th such order: sacreBLEU's defaults for corpora, whose value this is for whole counts
    (a test says so). It is written out because sums need not be whole, where a tie of uncertainty
    is cut and its sentences count in proportion, and because a bootstrap wants many at once.

    Args:
        sums: shape (R, 10).

    Returns:
        Shape (R,).

    Source: Papineni and others, 2002; Chen and Cherry, 2014, method 3.
    """
    lengths, matches, grams = np.split(sums, (2, 2 + ORDERS), axis=1)
    exists = (matches.sum(axis=1) > 0) & (grams > 0).all(axis=1)
    hypothesis, reference = np.where(exists, lengths[:, 0], 1.0), lengths[:, 1]
    halvings = np.cumsum(matches == 0, axis=1)
    smoothed = np.where(matches > 0, matches, 0.5**halvings)
    log_precision = np.log(smoothed / np.where(grams > 0, grams, 1.0))  # (R, 4)
    log_brevity = np.minimum(0.0, 1.0 - reference / hypothesis)
    score = 100.0 * np.exp(log_brevity + log_precision.mean(axis=1))
    return np.where(exists, score, 0.0)


def kept_count(coverage: float, n: int) -> int:
    """Return how many of n sentences a coverage keeps: the fewest that reach it.

    Raises:
        InputError: the coverage lies outside (0, 1].

    Example:
        >>> kept_count(0.5, 5), kept_count(0.1, 30)
        (3, 3)
    """
    if not 0.0 < coverage <= 1.0:
        raise InputError(f"a coverage must lie above 0 and at most at 1, got {coverage:g}")
    return math.ceil(coverage * n * (1 - 1e-12))  # 0.1 · 30 is 3.0000000000000004; it means 3
