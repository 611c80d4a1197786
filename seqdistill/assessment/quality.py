"""Text quality, each number with its signature: BLEU, chrF and TER of sacreBLEU, WER by jiwer.

Corpus WER is in :mod:`seqdistill.assessment.word_errors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.signatures import sign
from seqdistill.assessment.word_alignment import (
    AS_WRITTEN,
    Normalisation,
    count_errors,
    error_fields,
)
from seqdistill.errors import InputError

#: Metric of corpora → how it is written.
METRICS = {"bleu": "BLEU", "chrf": "chrF"}
#: Metric of sentences → how its quality is written: an error rate counts from 100 down.
SENTENCE_METRICS = {**METRICS, "ter": "100 − TER", "wer": "100 − WER"}


@dataclass(frozen=True)
class QualityScore:
    """One corpus score.

    Attributes:
        metric: ``bleu`` or ``chrf``.
        value: 0 to 100, higher = better.
        signature: sacreBLEU's, on one line.
    """

    metric: str
    value: float
    signature: str


@dataclass(frozen=True)
class QualityResult:
    """Corpus scores of one set of translations.

    Attributes:
        bleu: corpus BLEU (Papineni et al., 2002; Post, 2018).
        chrf: corpus chrF2 (Popović, 2015).
        n: sentences.
    """

    bleu: QualityScore
    chrf: QualityScore
    n: int


def corpus_quality(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str | None = None
) -> QualityResult:
    """Score detokenised translations against one reference each.

    Args:
        hypotheses: n texts.
        references: n texts, in the same order.
        tokenize: sacreBLEU's tokenizer for BLEU, its default (``13a``) when None; Chinese and
            Japanese want ``zh`` and ``ja-mecab``.

    Raises:
        InputError: nothing came, or the lengths differ.
    """
    _check(hypotheses, references)
    scores = {}
    for name in METRICS:
        metric = _metric(name, tokenize, sentence=False)
        value = metric.corpus_score(list(hypotheses), [list(references)]).score
        scores[name] = QualityScore(name, float(value), str(metric.get_signature()))
    return QualityResult(scores["bleu"], scores["chrf"], len(hypotheses))


def sentence_quality(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    metric: str = "chrf",
    tokenize: str | None = None,
    normalisation: Normalisation = AS_WRITTEN,
) -> FloatArray:
    """Score each text by itself.

    Args:
        hypotheses: n texts.
        references: n texts, in the same order.
        metric: ``bleu`` (exponentially smoothed, effective order), ``chrf``, ``ter`` or ``wer``.
        tokenize: as in :func:`corpus_quality`; BLEU only.
        normalisation: of both texts; WER only.

    Returns:
        Shape (n,), higher = better, at most 100. BLEU and chrF start at 0; of an error rate it is
        100 − rate, below 0 where a text needs more edits than its reference has words. To WER an
        empty reference counts as one word: 100 if nothing was recognised, 0 if one word was.

    Raises:
        InputError: nothing came, the lengths differ, the metric is unknown or its library not
            installed, or a reference is empty, which leaves TER undefined.

    Example:
        >>> sentence_quality(["guten Tag Tom"], ["guten Morgen Tom"], metric="wer").round(1)
        array([66.7])
    """
    _check(hypotheses, references)
    if metric == "wer":
        counts = count_errors(hypotheses, references, normalisation=normalisation)
        return 100.0 - 100.0 * counts.rates
    if metric == "ter":
        _check_not_empty(references)
    pairs = zip(hypotheses, references, strict=True)
    scorer = _metric(metric, tokenize, sentence=True)
    scores = np.array([scorer.sentence_score(h, [r]).score for h, r in pairs], dtype=np.float64)
    # Rounding may lift a perfect score above the best there is.
    return 100.0 - scores if metric == "ter" else np.minimum(scores, 100.0)


def sentence_signature(
    metric: str, *, tokenize: str | None = None, normalisation: Normalisation = AS_WRITTEN
) -> str:
    """Return the signature of :func:`sentence_quality`: sacreBLEU's, or of the word error rate.

    Raises:
        InputError: the metric is unknown, or its library is not installed.
    """
    if metric == "wer":
        return sign({**error_fields("words", normalisation), "empty": "one-word"})
    scorer = _metric(metric, tokenize, sentence=True)
    scorer.sentence_score("a", ["a"])  # sacreBLEU signs what was scored: here, one reference
    return str(scorer.get_signature())


def _check_not_empty(references: Sequence[str]) -> None:
    empty = [number for number, text in enumerate(references) if not text.split()]
    if empty:
        raise InputError(
            f"{len(empty)} references are empty (the first is number {empty[0]}, from 0): "
            "TER divides by their length; leave those sentences out"
        )


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise InputError(
            f"expected one reference a hypothesis, got {len(hypotheses)} hypotheses "
            f"and {len(references)} references"
        )
    if not hypotheses:
        raise InputError("expected at least one hypothesis, got none")


def _metric(name: str, tokenize: str | None, *, sentence: bool) -> Any:
    if name not in SENTENCE_METRICS:
        raise InputError(f"unknown metric {name!r}; there are {', '.join(SENTENCE_METRICS)}")
    try:
        from sacrebleu.metrics import BLEU, CHRF, TER
    except ImportError as error:
        raise InputError('text quality needs sacreBLEU: pip install "sacrebleu>=2.4"') from error
    if name in ("chrf", "ter"):
        return CHRF() if name == "chrf" else TER()
    # A short sentence has no 4-grams; without the effective order its BLEU would be 0.
    return BLEU(tokenize=tokenize, effective_order=sentence)
