"""``--criterion mean_kl``: ensemble distillation (EnD), the mean distribution alone."""

from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_plugins.criterions.distillation import DistillationConfig, DistillationCriterion
from seqdistill.errors import InputError
from seqdistill.losses import mean_kl_loss
from seqdistill.student import StudentHead
from seqdistill.teachers import EnsembleStatistics


@register_criterion("mean_kl", dataclass=DistillationConfig)
class MeanKLCriterion(DistillationCriterion):
    """Distil an ensemble's mean distribution into an ordinary model."""

    def distillation_loss(
        self, logits: Tensor, statistics: EnsembleStatistics
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of :func:`seqdistill.losses.mean_kl_loss`."""
        return mean_kl_loss(logits, statistics)

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a softmax head; it has no Dirichlet mean to predict with."""
        if str(predictive) != "base":
            raise InputError(
                "--predictive mean needs a Dirichlet student, mean_kl trains a softmax"
            )
        return StudentHead("softmax", None, "base", measures)
