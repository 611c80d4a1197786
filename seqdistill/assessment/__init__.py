"""How good the text is and how much the uncertainty is worth: from scores to results."""

from seqdistill.assessment.calibration import (
    CalibrationResult,
    Likelihood,
    calibration,
    hypotheses_calibration,
    hypotheses_likelihood,
    likelihood,
)
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
from seqdistill.assessment.detection import (
    DetectionResult,
    Estimate,
    RocCurve,
    aupr,
    auroc,
    detect,
    fpr_at_95_tpr,
    roc_curve,
)
from seqdistill.assessment.hypothesis_sets import (
    OodAssessment,
    assess_ood,
    assess_quality,
    assess_rejection,
    read_best,
    uncertainty_of,
)
from seqdistill.assessment.quality import (
    QualityResult,
    QualityScore,
    corpus_quality,
    sentence_quality,
)
from seqdistill.assessment.rejection import RejectionResult, reject

__all__ = [
    "PRECISION_BINS",
    "UNCERTAINTY_BINS",
    "CalibrationResult",
    "DetectionResult",
    "Estimate",
    "Likelihood",
    "LogBins",
    "OodAssessment",
    "QualityResult",
    "QualityScore",
    "RejectionResult",
    "RocCurve",
    "assess_ood",
    "assess_quality",
    "assess_rejection",
    "aupr",
    "auroc",
    "average_ranks",
    "calibration",
    "corpus_quality",
    "detect",
    "fpr_at_95_tpr",
    "histogram_quantiles",
    "hypotheses_calibration",
    "hypotheses_likelihood",
    "joint_log_histogram",
    "likelihood",
    "log_histogram",
    "read_best",
    "reject",
    "roc_curve",
    "sentence_quality",
    "spearman",
    "spearman_from_joint_histogram",
    "uncertainty_of",
]
