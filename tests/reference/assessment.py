"""Detection, rejection and calibration by plain loops over sentences."""

import math
from collections.abc import Sequence
from itertools import pairwise

Scores = Sequence[float]


def auroc(in_scores: Scores, out_scores: Scores) -> float:
    """Share of pairs in which the out-of-domain sentence scores higher, ties at half."""
    wins = sum(
        1.0 if out > inside else 0.5 if out == inside else 0.0
        for inside in in_scores
        for out in out_scores
    )
    return wins / (len(in_scores) * len(out_scores))


def average_precision(positives: Scores, negatives: Scores) -> float:
    """Σ (R_k − R_{k−1}) P_k over distinct thresholds, highest first."""
    total, last_recall = 0.0, 0.0
    for threshold in sorted({*positives, *negatives}, reverse=True):
        hits = sum(score >= threshold for score in positives)
        flagged = hits + sum(score >= threshold for score in negatives)
        recall = hits / len(positives)
        total += (recall - last_recall) * hits / flagged
        last_recall = recall
    return total


def fpr_at_95_tpr(in_scores: Scores, out_scores: Scores) -> float:
    """False alarms at the highest threshold that flags 95 % of the out-of-domain sentences."""
    for threshold in sorted(set(out_scores), reverse=True):
        if 20 * sum(score >= threshold for score in out_scores) >= 19 * len(out_scores):
            return sum(score >= threshold for score in in_scores) / len(in_scores)
    raise AssertionError("the lowest score flags everything")


def rejection_curve(quality: Scores, order: Sequence[int], best: float) -> list[float]:
    """Mean quality with the first k of ``order`` counted as perfect, k = 0 … n."""
    curve = []
    for k in range(len(order) + 1):
        given = set(order[:k])
        curve.append(
            math.fsum(best if i in given else q for i, q in enumerate(quality)) / len(quality)
        )
    return curve


def area(curve: Sequence[float]) -> float:
    """Area under a curve over [0, 1] by the trapezoid rule."""
    pairs = pairwise(curve)
    return math.fsum((one + other) / 2 for one, other in pairs) / (len(curve) - 1)


def rejection_ratio(quality: Scores, uncertainty: Scores, best: float) -> float:
    """PRR from three areas; without ties of uncertainty."""
    n = len(quality)
    of_measure = sorted(range(n), key=lambda i: -uncertainty[i])
    of_oracle = sorted(range(n), key=lambda i: quality[i])
    mean = math.fsum(quality) / n
    random = (mean + best) / 2  # a straight line from the mean to the best
    measure_area = area(rejection_curve(quality, of_measure, best))
    oracle_area = area(rejection_curve(quality, of_oracle, best))
    return (measure_area - random) / (oracle_area - random)


def expected_calibration_error(confidence: Scores, correct: Sequence[bool], bins: int) -> float:
    """ECE with equal-width bins, each holding its lower edge, the last one also 1."""
    n, error = len(confidence), 0.0
    for index in range(bins):
        inside = [
            (c, right)
            for c, right in zip(confidence, correct, strict=True)
            if min(int(c * bins), bins - 1) == index
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            mean = math.fsum(c for c, _ in inside) / len(inside)
            error += len(inside) / n * abs(accuracy - mean)
    return error
