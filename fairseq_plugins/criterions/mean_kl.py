"""``--criterion mean_kl``: ensemble distillation (EnD), the mean distribution alone."""

from fairseq.criterions import register_criterion

from fairseq_plugins.criterions.distillation import DistillationConfig, DistillationCriterion
from seqdistill.errors import InputError
from seqdistill.kernels import DistillationLoss
from seqdistill.student import StudentHead


@register_criterion("mean_kl", dataclass=DistillationConfig)
class MeanKLCriterion(DistillationCriterion):
    """Distil an ensemble's mean distribution into an ordinary model."""

    least_members = 1

    def distillation_loss(self) -> DistillationLoss:
        """Return the KL from the ensemble's mean."""
        return DistillationLoss(
            "mean_kl",
            mix_weight=self.cfg.mix_weight,
            label_smoothing=self.cfg.label_smoothing,
        )

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a softmax head; it has no Dirichlet mean to predict with."""
        if str(predictive) != "base":
            raise InputError(
                "--predictive mean needs a Dirichlet student, mean_kl trains a softmax"
            )
        return StudentHead("softmax", None, "base", measures)
