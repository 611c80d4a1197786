"""Moments of Concrete distributions from samples, in float64: every x is drawn and looked at."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sampled(
    log_weights: Array, temperature: float, samples: int, seed: int = 0
) -> dict[str, tuple[Array, Array]]:
    """Return the mean of what each sample says, and its standard error.

    ``mean`` and ``mean_of_logs`` are (V,), ``data_uncertainty`` a number.
    """
    generator = np.random.default_rng(seed)
    gumbels = generator.gumbel(size=(samples, len(log_weights)))
    scaled = (log_weights + gumbels) / temperature
    highest = scaled.max(axis=1, keepdims=True)
    total = highest + np.log(np.exp(scaled - highest).sum(axis=1, keepdims=True))
    logs = scaled - total
    x = np.exp(logs)
    entropies = -np.where(x > 0, x * logs, 0.0).sum(axis=1)

    def mean(values: Array) -> tuple[Array, Array]:
        error = values.std(axis=0) / np.sqrt(samples)
        return np.asarray(values.mean(axis=0)), np.asarray(error)

    return {
        "mean": mean(x),
        "mean_of_logs": mean(logs),
        "data_uncertainty": mean(entropies),
    }


def two_pieces(gap: float) -> float:
    """E[x_1] of two pieces whose ln α differ by ``gap``, λ = 1: a sum of two logistic variates.

    Their difference of utilities is gap + L + L', and the sum of two standard logistic variates has
    the distribution function e^d (e^d − 1 − d)/(e^d − 1)².
    """
    e = np.exp(gap)
    return float(e * (e - 1.0 - gap) / (e - 1.0) ** 2)
