"""Members that translate by themselves: how much their outputs differ, a baseline of uncertainty.

It needs M searches instead of one and no probabilities at all, so it fits any system with text.
"""

from collections.abc import Sequence

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.hypothesis_files import HypothesisSet
from seqdistill.assessment.quality import sentence_quality
from seqdistill.errors import InputError
from seqdistill.uncertainty.added_measures import DISAGREEMENT_METRICS, DISAGREEMENT_PREFIX


def output_disagreement(
    outputs: Sequence[Sequence[str]], *, metric: str = "bleu", tokenize: str | None = None
) -> FloatArray:
    """Return the mean difference between the members' translations of each sentence.

    mean over i ≠ j of d(y_i, y_j), where d is 1 − BLEU/100 or 1 − chrF/100 of sentences, or the
    error rate TER or WER itself, with y_j as the reference. All ordered pairs count, since none of
    the four is symmetric. Equal texts differ by 0, empty ones included, for which no metric has a
    value.

    Args:
        outputs: M translations of n sentences each, detokenised.
        metric: ``bleu``, ``chrf``, ``ter`` or ``wer``; as for
            :func:`~seqdistill.assessment.quality.sentence_quality`.
        tokenize: sacreBLEU's tokenizer of BLEU.

    Returns:
        Shape (n,), float64, no unit, higher = more uncertain; 0 where all members agree, at most 1
        for BLEU and chrF.

    Raises:
        InputError: fewer than two members, other numbers of sentences, an unknown metric, or TER
            against an empty text. (To WER such a text counts as one word.)

    Source: Fomicheva et al. 2020 (lexical similarity); Xiao, Gomez & Gal 2020 (BLEUVar, with the
    square of each pair's difference).

    Example:
        >>> output_disagreement([["ein Haus", "ja"], ["das Haus", "ja"]], metric="wer")
        array([0.5, 0. ])
    """
    if metric not in DISAGREEMENT_METRICS:
        raise InputError(f"expected a metric of {', '.join(DISAGREEMENT_METRICS)}, got {metric!r}")
    M = len(outputs)
    if M < 2:
        raise InputError(f"expected the outputs of at least 2 members, got {M}")
    n = len(outputs[0])
    if any(len(texts) != n for texts in outputs):
        lengths = ", ".join(str(len(texts)) for texts in outputs)
        raise InputError(f"expected as many sentences from each member, got {lengths}")
    pairs = [
        (sentence, outputs[i][sentence], outputs[j][sentence])
        for sentence in range(n)
        for i in range(M)
        for j in range(M)
        if outputs[i][sentence] != outputs[j][sentence]
    ]
    total = np.zeros(n)
    if pairs:
        sentences, ours, theirs = zip(*pairs, strict=True)
        _refuse_empty(sentences, theirs, metric)
        quality = sentence_quality(ours, theirs, metric=metric, tokenize=tokenize)
        np.add.at(total, np.array(sentences), 1.0 - quality / 100.0)
    return np.asarray(total / (M * (M - 1)), dtype=np.float64)


def disagreement_of_files(
    members: Sequence[HypothesisSet], *, metric: str = "bleu", tokenize: str | None = None
) -> dict[int, float]:
    """Return the disagreement of every sentence by its number.

    Args:
        members: what each member translates by itself, one set each.
        metric: as for :func:`output_disagreement`.
        tokenize: likewise.

    Raises:
        InputError: the members did not translate the same sentences (file and line are named), or
            as :func:`output_disagreement`.
    """
    for other in members[1:]:
        members[0].require_same_sentences(other)
    outputs = [[hypothesis.text for hypothesis in one.hypotheses] for one in members]
    values = output_disagreement(outputs, metric=metric, tokenize=tokenize)
    numbers = [hypothesis.id for hypothesis in members[0].hypotheses]
    return dict(zip(numbers, values.tolist(), strict=True))


def disagreement_measure(metric: str) -> str:
    """Return the name of the measure of a metric.

    Example:
        >>> disagreement_measure("bleu")
        'output_disagreement_bleu'
    """
    return DISAGREEMENT_PREFIX + metric


def _refuse_empty(sentences: Sequence[int], references: Sequence[str], metric: str) -> None:
    """Refuse TER against an empty text: it has no length to divide by."""
    if metric != "ter":
        return
    for sentence, text in zip(sentences, references, strict=True):
        if not text.split():
            raise InputError(
                f"a member's output of sentence {sentence} (from 0) is empty and another's is not, "
                "and TER divides by its length; choose another metric"
            )
