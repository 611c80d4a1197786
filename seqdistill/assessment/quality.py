"""Text quality through sacreBLEU, each number with its signature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.errors import InputError

#: Metric → how it is written.
METRICS = {"bleu": "BLEU", "chrf": "chrF"}


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
) -> FloatArray:
    """Score each translation by itself.

    Args:
        hypotheses: n texts.
        references: n texts, in the same order.
        metric: ``bleu`` (exponentially smoothed, effective order) or ``chrf``.
        tokenize: as in :func:`corpus_quality`.

    Returns:
        Scores from 0 to 100, shape (n,), higher = better.

    Raises:
        InputError: nothing came, the lengths differ, or the metric is unknown.
    """
    _check(hypotheses, references)
    scorer = _metric(metric, tokenize, sentence=True)
    return np.array(
        [
            # Rounding may lift a perfect score above the best there is.
            min(scorer.sentence_score(hypothesis, [reference]).score, 100.0)
            for hypothesis, reference in zip(hypotheses, references, strict=True)
        ],
        dtype=np.float64,
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
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}; there are {', '.join(METRICS)}")
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise InputError('text quality needs sacreBLEU: pip install "sacrebleu>=2.4"') from error
    if name == "chrf":
        return CHRF()
    # A short sentence has no 4-grams; without the effective order its BLEU would be 0.
    return BLEU(tokenize=tokenize, effective_order=sentence)
