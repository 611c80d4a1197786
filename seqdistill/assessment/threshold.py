"""From in-domain scores to a decision: the threshold of an out-of-domain alarm."""

import math
from typing import Any

import numpy as np

from seqdistill.assessment.checks import finite_vector
from seqdistill.errors import InputError


def ood_threshold(in_domain_scores: Any, false_positive_rate: float = 0.05) -> float:
    """Calibrate the uncertainty above which a sentence counts as out of domain.

    The smallest threshold that raises the alarm, ``score > threshold``, on at most the given share
    of the in-domain sentences. It is one of their scores; ties fall on the side of no alarm.

    Args:
        in_domain_scores: (n,) uncertainty of in-domain sentences, higher = more uncertain. With
            fewer than 1/rate sentences the threshold is the largest score.
        false_positive_rate: accepted share of false alarms, in [0, 1).

    Returns:
        The threshold, in the unit of the scores.

    Raises:
        InputError: no scores, a score that is not finite, or a rate out of range.

    Example:
        >>> scores = list(range(100))
        >>> threshold = ood_threshold(scores, 0.05)
        >>> threshold, sum(score > threshold for score in scores)
        (94.0, 5)
    """
    if not 0.0 <= false_positive_rate < 1.0:
        raise InputError(
            f"expected a false-positive rate of at least 0 and below 1, got {false_positive_rate}; "
            "0.05 accepts one false alarm in twenty in-domain sentences"
        )
    scores = np.sort(finite_vector("in-domain scores", in_domain_scores))
    # 0.29 · 100 is 28.999999999999996 in floating point; it means 29.
    alarms = math.floor(false_positive_rate * len(scores) * (1 + 1e-12))
    return float(scores[len(scores) - 1 - alarms])
