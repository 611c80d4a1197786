"""How good the text is and how much the uncertainty is worth: from scores to results."""

from seqdistill.assessment.correlation import (
    PRECISION_BINS,
    UNCERTAINTY_BINS,
    LogBins,
    average_ranks,
    histogram_quantiles,
    joint_log_histogram,
    log_histogram,
    spearman,
    spearman_from_joint_histogram,
)

__all__ = [
    "PRECISION_BINS",
    "UNCERTAINTY_BINS",
    "LogBins",
    "average_ranks",
    "histogram_quantiles",
    "joint_log_histogram",
    "log_histogram",
    "spearman",
    "spearman_from_joint_histogram",
]
