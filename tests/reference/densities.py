"""Densities of features in float64 numpy, with loops, an explicit inverse and nothing shared."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def sample_covariance(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Mean (D,) and covariance (D, D) with divisor n, two passes."""
    n, D = rows.shape
    mean = np.array([sum(rows[:, d]) / n for d in range(D)])
    covariance = np.zeros((D, D))
    for row in rows:
        covariance += np.outer(row - mean, row - mean)
    return mean, covariance / n


def oas(covariance: Matrix, n: int) -> float:
    """Oracle approximating shrinkage, Chen et al. 2010, equation 23."""
    D = len(covariance)
    tr_square, square_tr = np.trace(covariance @ covariance), np.trace(covariance) ** 2
    numerator = (1 - 2 / D) * tr_square + square_tr
    return float(min(1.0, numerator / ((n + 1 - 2 / D) * (tr_square - square_tr / D))))


def squared_distance(
    row: Sequence[float] | Matrix, mean: Matrix, covariance: Matrix, shrinkage: float
) -> float:
    """(h − μ)ᵀ Σ⁻¹ (h − μ) with Σ = (1 − ρ) S + ρ tr(S)/D · I, by an explicit inverse."""
    D = len(mean)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / D * np.eye(D)
    step = np.asarray(row) - mean
    return float(step @ np.linalg.inv(shrunk) @ step)
