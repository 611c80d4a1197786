"""Stage one: what an ensemble of teachers says about each token."""

from seqdistill.teachers.statistics import (
    EnsembleStatistics,
    StatisticsAccumulator,
    ensemble_statistics,
)

__all__ = ["EnsembleStatistics", "StatisticsAccumulator", "ensemble_statistics"]
