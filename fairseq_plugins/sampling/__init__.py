"""Trainings that sample: ``--optimizer sgld`` and ``--lr-scheduler cyclical``."""

from fairseq_plugins.sampling import optimizer, schedule

__all__ = ["optimizer", "schedule"]
