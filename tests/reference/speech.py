"""Statistics of features and of noise, one value at a time."""

import math
from collections.abc import Sequence


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation, in two passes of exact sums."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in values) / len(values))


def signal_to_noise(clean: Sequence[float], noisy: Sequence[float]) -> float:
    """Ratio of the mean powers in decibels."""
    signal = math.fsum(x * x for x in clean)
    noise = math.fsum((y - x) ** 2 for x, y in zip(clean, noisy, strict=True))
    return 10 * math.log10(signal / noise)
