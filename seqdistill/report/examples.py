"""The sentences a model is least sure of, their tokens shaded by uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqdistill.hypotheses import Hypothesis
from seqdistill.uncertainty.measures import MEASURES

_WORD_START = "▁"  # sentencepiece
_SUBWORD_END = "@@"  # subword-nmt
_END = "</s>"


@dataclass(frozen=True)
class ShadedToken:
    """A piece of a hypothesis as the page shows it.

    Attributes:
        text: as written, with the space in front of it where a word begins.
        value: its uncertainty (nats), None when it has none.
        shade: the value on the page's scale, in [0, 1].
    """

    text: str
    value: float | None
    shade: float


@dataclass(frozen=True)
class Example:
    """One sentence of the list.

    Attributes:
        hypothesis: what was decoded.
        value: the sequence's uncertainty by the list's measure (nats).
        tokens: the hypothesis piece by piece.
    """

    hypothesis: Hypothesis
    value: float
    tokens: list[ShadedToken]


def most_uncertain(
    hypotheses: Sequence[Hypothesis], measure: str, count: int, *, full_shade: float
) -> list[Example]:
    """Return the hypotheses of highest uncertainty, the highest first, ties by sentence number.

    Args:
        hypotheses: best hypotheses of one set, all with the measure.
        measure: the sequence measure they are ordered by.
        count: how many at most.
        full_shade: token uncertainty (nats, above 0) from which on the shade is full.
    """
    ranked = sorted(hypotheses, key=lambda h: (-h.uncertainty[measure], h.id))[:count]
    return [Example(h, h.uncertainty[measure], _shade(h, measure, full_shade)) for h in ranked]


def shading_scale(hypotheses: Sequence[Hypothesis], measure: str) -> float:
    """Return the token uncertainty (nats) that gets the full shade: the 98th percentile.

    A percentile and not the maximum, so that one extreme token does not pale all the others.
    """
    values = [value for h in hypotheses for value in h.token_uncertainty.get(measure, ())]
    top = float(np.quantile(values, 0.98)) if values else 0.0
    return top if top > 0.0 else 1.0


def shadable(measure: str) -> bool:
    """Say whether a measure has token values that explain its sequence value."""
    return measure in MEASURES and MEASURES[measure].level == "token"


def _shade(hypothesis: Hypothesis, measure: str, full: float) -> list[ShadedToken]:
    values: list[float | None] = list(hypothesis.token_uncertainty.get(measure, ()))
    if len(values) != len(hypothesis.pieces):  # the measure has no token values here
        values = [None] * len(hypothesis.pieces)
    texts = surface(hypothesis.pieces)
    return [
        ShadedToken(text, value, 0.0 if value is None else min(1.0, max(0.0, value / full)))
        for text, value in zip(texts, values, strict=True)
    ]


def surface(pieces: Sequence[str]) -> list[str]:
    """Return pieces as they read in running text.

    Understands sentencepiece (``▁`` begins a word) and subword-nmt (``@@`` ends a part of one); in
    other vocabularies each piece is a word.

    Example:
        >>> surface(["▁Good", "▁mor", "ning", "</s>"])
        ['Good', ' mor', 'ning', ' ⏎']
    """
    sentencepiece = any(_WORD_START in piece for piece in pieces)
    texts = []
    joined = True  # nothing stands in front of the first piece
    for piece in pieces:
        if piece == _END:
            texts.append(" ⏎")
            continue
        if sentencepiece:
            text = piece.replace(_WORD_START, " ")
        else:
            text = ("" if joined else " ") + piece.removesuffix(_SUBWORD_END)
        texts.append(text if texts else text.lstrip())
        joined = piece.endswith(_SUBWORD_END)
    return texts
