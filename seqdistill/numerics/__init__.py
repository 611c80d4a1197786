"""Gamma functions of ``1 + e^z`` and Dirichlet terms from logits, exact for every finite z."""

from seqdistill.numerics.dirichlet import DirichletTerms
from seqdistill.numerics.exp_gamma import ExpGamma

__all__ = ["DirichletTerms", "ExpGamma"]
