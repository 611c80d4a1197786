"""Similarity graphs and flips of words, one entry after another."""

import math
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def graph(states: Rows, neighbours: int = 0) -> list[list[float]]:
    """Normalised adjacency of cosines above 0."""
    count = len(states)

    def cosine(one: Sequence[float], other: Sequence[float]) -> float:
        norms = [math.sqrt(sum(x * x for x in vector)) for vector in (one, other)]
        if 0.0 in norms:
            return 0.0
        return sum(x * y for x, y in zip(one, other, strict=True)) / (norms[0] * norms[1])

    weights = [
        [max(0.0, cosine(one, other)) if i != j else 0.0 for j, other in enumerate(states)]
        for i, one in enumerate(states)
    ]
    if 0 < neighbours < count - 1:
        near = [
            sorted(range(count), key=lambda j, row=row: -row[j])[:neighbours] for row in weights
        ]
        weights = [
            [w if j in near[i] or i in near[j] else 0.0 for j, w in enumerate(row)]
            for i, row in enumerate(weights)
        ]
    degrees = [sum(row) for row in weights]
    return [
        [w / math.sqrt(degrees[i] * degrees[j]) if w else 0.0 for j, w in enumerate(row)]
        for i, row in enumerate(weights)
    ]


def distance(one: Rows, other: Rows) -> float:
    """Squared Frobenius norm of the difference."""
    return sum(
        (x - y) ** 2
        for row, other_row in zip(one, other, strict=True)
        for x, y in zip(row, other_row, strict=True)
    )


def steepest(
    gradient: Sequence[float], token: int, embeddings: Rows, allowed: Sequence[bool]
) -> tuple[int, float]:
    """The word with the least product, and its slope from the word that is there."""
    scores = [sum(g * e for g, e in zip(gradient, row, strict=True)) for row in embeddings]
    word = min((v for v in range(len(embeddings)) if allowed[v]), key=scores.__getitem__)
    return word, scores[word] - scores[token]
