"""Criteria of the plug-in; importing them registers them with fairseq."""

from fairseq_plugins.criterions.end2 import End2Criterion
from fairseq_plugins.criterions.expectations import ExpectationsCriterion
from fairseq_plugins.criterions.gated_cross_entropy import GatedCrossEntropyCriterion
from fairseq_plugins.criterions.hydra import HydraCriterion
from fairseq_plugins.criterions.kdgan import KdganCriterion
from fairseq_plugins.criterions.logit_space import (
    ConcreteCriterion,
    LogitGaussianCriterion,
    LogitLaplaceCriterion,
)
from fairseq_plugins.criterions.mean_kl import MeanKLCriterion
from fairseq_plugins.criterions.proxy_dirichlet import ProxyDirichletCriterion
from fairseq_plugins.criterions.proxy_precision import ProxyPrecisionCriterion

__all__ = [
    "ConcreteCriterion",
    "End2Criterion",
    "ExpectationsCriterion",
    "GatedCrossEntropyCriterion",
    "HydraCriterion",
    "KdganCriterion",
    "LogitGaussianCriterion",
    "LogitLaplaceCriterion",
    "MeanKLCriterion",
    "ProxyDirichletCriterion",
    "ProxyPrecisionCriterion",
]
