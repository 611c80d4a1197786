"""Stage four: what a student is: its head, and the distribution it predicts with."""

from seqdistill.student.head import PREDICTIVES, StudentHead, predictive_log_probs
from seqdistill.student.hydra import HydraOutputs
from seqdistill.student.outputs import StudentOutputs

__all__ = [
    "PREDICTIVES",
    "HydraOutputs",
    "StudentHead",
    "StudentOutputs",
    "predictive_log_probs",
]
