"""Made-up hypotheses whose uncertainty means something: harder sentences, more mistakes."""

import numpy as np

from seqdistill.hypotheses import Hypothesis, ModelInfo
from seqdistill.uncertainty.measures import MEASURES, measures_of

_WORDS = ("the", "a", "house", "tree", "small", "morning", "Tom", "said", "book", "window")
_MODELS = {
    "ensemble": ModelInfo("ensemble", 5, "pe"),
    "dirichlet": ModelInfo("dirichlet", 1, "base", 1.0),
    "softmax": ModelInfo("softmax", 1, "softmax"),
}


def make_hypotheses(
    count: int,
    *,
    kind: str = "ensemble",
    difficulty: float = 0.0,
    seed: int = 0,
    forced: bool = False,
    references: bool = True,
) -> list[Hypothesis]:
    """Make hypotheses; ``difficulty`` shifts the logarithm of their uncertainty."""
    random = np.random.default_rng(seed)
    return [
        _make_one(number, kind, difficulty, random, forced=forced, references=references)
        for number in range(count)
    ]


def _make_one(
    number: int,
    kind: str,
    difficulty: float,
    random: np.random.Generator,
    *,
    forced: bool,
    references: bool,
) -> Hypothesis:
    hardness = float(np.exp(random.normal(difficulty, 0.5)))
    reference = [str(word) for word in random.choice(_WORDS, size=random.integers(3, 9))]
    mistaken = random.random(len(reference)) < min(0.9, 0.15 * hardness)
    words = [
        str(random.choice(_WORDS)) if wrong else word
        for word, wrong in zip(reference, mistaken, strict=True)
    ]
    pieces = [f"▁{word}" for word in words] + ["</s>"]
    surprise = hardness * random.gamma(1.2, 0.5, size=len(pieces))
    token_uncertainty, uncertainty = {}, {}
    for name in measures_of(kind):
        values = surprise * np.exp(random.normal(0.0, 0.2, size=len(pieces)))
        uncertainty[name] = float(values.mean())
        if MEASURES[name].level == "token":
            token_uncertainty[name] = values.tolist()
    log_probs = (-surprise).tolist()
    return Hypothesis(
        id=number,
        rank=0,
        text=" ".join(words),
        tokens=list(range(4, 4 + len(pieces))),
        pieces=pieces,
        log_prob=sum(log_probs),
        token_log_probs=log_probs,
        token_uncertainty=token_uncertainty,
        uncertainty=uncertainty,
        model=_MODELS[kind],
        source=" ".join(reversed(reference)).upper(),
        reference=" ".join(reference) if references else None,
        score=None if forced else sum(log_probs) / len(pieces),
        forced=forced,
        token_confidence=np.exp(-0.6 * surprise).tolist() if forced else None,
        token_correct=(random.random(len(pieces)) < np.exp(-surprise)).tolist() if forced else None,
    )
