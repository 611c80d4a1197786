"""Stage four: what a student is: its head, and the distribution it predicts with."""

from seqdistill.student.expectations import (
    ExpectationOutputs,
    check_expectations,
    expectation_measures,
    expected_values,
    targets_of,
)
from seqdistill.student.head import PREDICTIVES, StudentHead, predictive_log_probs
from seqdistill.student.hydra import HydraOutputs
from seqdistill.student.outputs import StudentOutputs

__all__ = [
    "PREDICTIVES",
    "ExpectationOutputs",
    "HydraOutputs",
    "StudentHead",
    "StudentOutputs",
    "check_expectations",
    "expectation_measures",
    "expected_values",
    "predictive_log_probs",
    "targets_of",
]
