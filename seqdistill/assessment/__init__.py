"""How good the text is and how much the uncertainty is worth: from scores to results."""

from seqdistill.assessment.bootstrap import Comparison, Estimate, compare
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
    RocCurve,
    aupr,
    auroc,
    compare_detection,
    detect,
    fpr_at_95_tpr,
    roc_curve,
)
from seqdistill.assessment.error_detection import (
    ERROR_METRICS,
    ErrorResult,
    detect_errors,
)
from seqdistill.assessment.hypothesis_files import HypothesisSet, read_best, read_set
from seqdistill.assessment.hypothesis_sets import (
    OodAssessment,
    assess_ood,
    assess_quality,
    assess_rejection,
    assess_word_errors,
    uncertainty_of,
)
from seqdistill.assessment.numbers import Numbers, compare_numbers
from seqdistill.assessment.quality import (
    QualityResult,
    QualityScore,
    corpus_quality,
    sentence_quality,
    sentence_signature,
)
from seqdistill.assessment.rejection import RejectionResult, reject
from seqdistill.assessment.word_alignment import ErrorCounts, Normalisation, count_errors
from seqdistill.assessment.word_errors import WordErrors, word_errors

__all__ = [
    "ERROR_METRICS",
    "PRECISION_BINS",
    "UNCERTAINTY_BINS",
    "CalibrationResult",
    "Comparison",
    "DetectionResult",
    "ErrorCounts",
    "ErrorResult",
    "Estimate",
    "HypothesisSet",
    "Likelihood",
    "LogBins",
    "Normalisation",
    "Numbers",
    "OodAssessment",
    "QualityResult",
    "QualityScore",
    "RejectionResult",
    "RocCurve",
    "WordErrors",
    "assess_ood",
    "assess_quality",
    "assess_rejection",
    "assess_word_errors",
    "aupr",
    "auroc",
    "average_ranks",
    "calibration",
    "compare",
    "compare_detection",
    "compare_numbers",
    "corpus_quality",
    "count_errors",
    "detect",
    "detect_errors",
    "fpr_at_95_tpr",
    "histogram_quantiles",
    "hypotheses_calibration",
    "hypotheses_likelihood",
    "joint_log_histogram",
    "likelihood",
    "log_histogram",
    "read_best",
    "read_set",
    "reject",
    "roc_curve",
    "sentence_quality",
    "sentence_signature",
    "spearman",
    "spearman_from_joint_histogram",
    "uncertainty_of",
    "word_errors",
]
