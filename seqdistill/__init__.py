"""Ensemble distribution distillation for translation and speech models.

The folders follow the data: ``teachers`` → ``targets`` → ``losses`` → ``student`` →
``uncertainty`` → ``assessment`` → ``report``. Importing this package loads torch and numpy at
most; fairseq lives behind ``fairseq_plugins``.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
