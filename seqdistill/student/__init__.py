"""Stage four: what a student is: its head, and the distribution it predicts with."""

from seqdistill.student.head import PREDICTIVES, StudentHead, predictive_log_probs

__all__ = ["PREDICTIVES", "StudentHead", "predictive_log_probs"]
