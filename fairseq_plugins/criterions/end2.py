"""``--criterion end2``: Ensemble Distribution Distillation by the Dirichlet's likelihood."""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_plugins.criterions.distillation import DistillationConfig, DistillationCriterion
from seqdistill.losses import end2_loss
from seqdistill.student import StudentHead
from seqdistill.teachers import EnsembleStatistics


@dataclass
class End2Config(DistillationConfig):
    """Options of ``end2``."""

    offset: float = field(
        default=1.0,
        metadata={"help": "o in alpha = exp(logit) + o, 1 or 0; saved in the checkpoint"},
    )


@register_criterion("end2", dataclass=End2Config)
class End2Criterion(DistillationCriterion):
    """Distil an ensemble's distribution by maximum likelihood (EnD²)."""

    cfg: End2Config

    def distillation_loss(
        self, logits: Tensor, statistics: EnsembleStatistics
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of :func:`seqdistill.losses.end2_loss`."""
        return end2_loss(logits, statistics, offset=self.cfg.offset)

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a Dirichlet head."""
        return StudentHead("dirichlet", self.cfg.offset, str(predictive), measures)
