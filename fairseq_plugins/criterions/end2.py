"""``--criterion end2``: Ensemble Distribution Distillation by the Dirichlet's likelihood."""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion

from fairseq_plugins.criterions.distillation import DistillationConfig, DistillationCriterion
from seqdistill.kernels import DistillationLoss
from seqdistill.student import StudentHead


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

    def distillation_loss(self) -> DistillationLoss:
        """Return the members' negative log-likelihood."""
        cfg = self.cfg
        return DistillationLoss(
            "end2",
            offset=cfg.offset,
            mix_weight=cfg.mix_weight,
            label_smoothing=cfg.label_smoothing,
        )

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a Dirichlet head."""
        return StudentHead("dirichlet", self.cfg.offset, str(predictive), measures)
