"""Retention metrics by plain loops, averaged over every order of the sentences that tie."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, permutations, product

Scores = Sequence[float]


def orders(uncertainty: Scores) -> Iterator[list[int]]:
    """Every order from certain to uncertain: ties in all their orders, each equally often."""
    by_score = sorted(range(len(uncertainty)), key=lambda i: uncertainty[i])
    groups = [list(ties) for _, ties in groupby(by_score, key=lambda i: uncertainty[i])]
    for choice in product(*(permutations(group) for group in groups)):
        yield [i for group in choice for i in group]


def expectation(
    metric: Callable[[list[float]], float], values: Scores, uncertainty: Scores
) -> float:
    """Mean of a metric of ordered values over the orders of ties."""
    found = [metric([values[i] for i in order]) for order in orders(uncertainty)]
    return math.fsum(found) / len(found)


def retention_area(errors: list[float]) -> float:
    """Mean of the n + 1 points of the error-retention curve; errors from certain to uncertain."""
    n = len(errors)
    return math.fsum(math.fsum(errors[:k]) / n for k in range(n + 1)) / (n + 1)


def risk_coverage_area(errors: list[float], rejected: float = 1.0) -> float:
    """Mean over k of the mean of the first k, for the int(rejected · n) largest k."""
    n = len(errors)
    ks = range(n - int(rejected * n) + 1, n + 1)
    return math.fsum(math.fsum(errors[:k]) / k for k in ks) / len(ks)


def f1_points(acceptable: list[float]) -> list[float]:
    """F1 of precision and recall at k = 0 … n; nothing kept is precision 1 and recall 0."""
    points = [0.0]
    for k in range(1, len(acceptable) + 1):
        hits = sum(acceptable[:k])
        precision, recall = hits / k, hits / sum(acceptable)
        points.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return points


def f1_area(acceptable: list[float]) -> float:
    """Trapezoids between the points, which lie at k/(n + 1)."""
    points = f1_points(acceptable)
    width = 1.0 / len(points)
    return math.fsum((points[i] + points[i + 1]) / 2 * width for i in range(len(points) - 1))


def f1_at_95(acceptable: list[float]) -> float:
    """The point of index int(0.95 · number of points)."""
    points = f1_points(acceptable)
    return points[int(0.95 * len(points))]


def lm_polygraph_ratio(quality: Scores, uncertainty: Scores, rejected: float = 1.0) -> float:
    """Scaled to [0, 1], then (area − random)/(oracle − random), random over all orders."""
    low, high = min(quality), max(quality)
    scaled = [(q - low) / (high - low) for q in quality]

    def area(values: list[float]) -> float:
        return risk_coverage_area(values, rejected)

    random = expectation(area, scaled, [0.0] * len(scaled))
    oracle = area(sorted(scaled, reverse=True))
    return (expectation(area, scaled, uncertainty) - random) / (oracle - random)
