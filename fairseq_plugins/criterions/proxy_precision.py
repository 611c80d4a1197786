"""``--criterion proxy_precision``: Proxy-Dirichlet targets, precision by an output of its own."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_plugins.criterions.batch import Batch
from fairseq_plugins.criterions.proxy_dirichlet import (
    ProxyDirichletConfig,
    ProxyDirichletCriterion,
)
from fairseq_plugins.features import TokenFeatures, shifted
from seqdistill.student import StudentHead
from seqdistill.student.precision import DEFAULT_RANK


@dataclass
class ProxyPrecisionConfig(ProxyDirichletConfig):
    """Options of ``proxy_precision``."""

    precision_rank: int = field(
        default=DEFAULT_RANK,
        metadata={
            "help": "width of the layer before the shift that all logits share; saved in the "
            "checkpoint"
        },
    )


@register_criterion("proxy_precision", dataclass=ProxyPrecisionConfig)
class ProxyPrecisionCriterion(ProxyDirichletCriterion):
    """Distil an ensemble's distribution; what is likely and how sure that is are two outputs."""

    cfg: ProxyPrecisionConfig

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a Dirichlet head with a precision of its own."""
        settings = {"rank": self.cfg.precision_rank}
        return StudentHead(
            "dirichlet_precision", self.cfg.offset, str(predictive), measures, settings
        )

    def features_of(self, model: Any, batch: Batch) -> TokenFeatures:
        """Return the features with the shift as one more."""
        given = super().features_of(model, batch)
        return shifted(given, model.decoder.student_outputs(given.features))

    def logits_of(self, model: Any, batch: Batch) -> tuple[Tensor, Any]:
        """Return the shifted logits."""
        given = self.features_of(model, batch)
        return given.logits(), given.extra
