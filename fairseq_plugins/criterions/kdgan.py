"""``--criterion kdgan``: student, teacher and discriminator as a game (Wang et al. 2018)."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from torch import Tensor

from fairseq_plugins.criterions.batch import Batch
from fairseq_plugins.criterions.distillation import (
    DistillationConfig,
    DistillationCriterion,
)
from fairseq_plugins.features import gives_features, token_features
from seqdistill.errors import InputError
from seqdistill.kernels import DistillationLoss, chunked_kdgan_loss
from seqdistill.losses.kdgan import (
    DEFAULT_RANK,
    REFERENCES,
    Discriminator,
    KdganSettings,
    TeacherPlayer,
)
from seqdistill.student import StudentHead

_DEFAULTS = KdganSettings()


@dataclass
class KdganConfig(DistillationConfig):
    """Options of ``kdgan``."""

    kdgan_student_share: float = field(
        default=_DEFAULTS.student_share,
        metadata={"help": "alpha: how much of what the discriminator judges is the student's"},
    )
    kdgan_student_weight: float = field(
        default=_DEFAULTS.student_weight,
        metadata={"help": "beta: of KL(teacher || student), by which the student learns"},
    )
    kdgan_teacher_weight: float = field(
        default=_DEFAULTS.teacher_weight,
        metadata={"help": "gamma: of KL(student || teacher), by which the teacher learns"},
    )
    kdgan_adversarial_weight: float = field(
        default=_DEFAULTS.adversarial_weight,
        metadata={"help": "of the game in the gradients of student and teacher; 0: none"},
    )
    kdgan_temperature: float = field(
        default=_DEFAULTS.temperature,
        metadata={"help": "of the Concrete samples; towards 0 they are single pieces"},
    )
    kdgan_references: ChoiceEnum(list(REFERENCES)) = field(  # type: ignore[valid-type]
        default=_DEFAULTS.references,
        metadata={
            "help": "what the discriminator is shown of references: relaxed, as soft as what is "
            "drawn, or one_hot (the paper's; it teaches the players to be sure)"
        },
    )
    kdgan_rank: int = field(
        default=DEFAULT_RANK, metadata={"help": "width of the other players' inner layers"}
    )


@register_criterion("kdgan", dataclass=KdganConfig)
class KdganCriterion(DistillationCriterion):
    """Distil in a game; the other players' weights are the criterion's, in the checkpoint."""

    cfg: KdganConfig
    least_members = 1

    def __init__(self, cfg: KdganConfig, task: Any) -> None:
        super().__init__(cfg, task)
        if cfg.no_fused_loss:
            raise InputError(
                "--no-fused-loss: criterion kdgan has one form, from the student's features; "
                "leave it away"
            )
        if cfg.kdgan_rank < 1:
            raise InputError(f"--kdgan-rank: expected 1 or more, got {cfg.kdgan_rank}")
        self.settings = KdganSettings(
            cfg.kdgan_student_share,
            cfg.kdgan_student_weight,
            cfg.kdgan_teacher_weight,
            cfg.kdgan_adversarial_weight,
            cfg.kdgan_temperature,
            str(cfg.kdgan_references),
        )
        student = task.student
        if student is None:  # fairseq-validate: the other players have nothing to say there
            return
        if not gives_features(student):
            raise InputError(
                "criterion kdgan trains a transformer with an ordinary output projection; this "
                "student does not give its features"
            )
        D = student.decoder.output_projection.in_features
        self.discriminator = Discriminator(D, cfg.kdgan_rank)
        self.teacher = TeacherPlayer(D, cfg.kdgan_rank)

    def distillation_loss(self) -> DistillationLoss:
        """Return what validation measures: the KL from the ensemble's mean."""
        return DistillationLoss(
            "mean_kl", mix_weight=self.cfg.mix_weight, label_smoothing=self.cfg.label_smoothing
        )

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a softmax head."""
        if str(predictive) != "base":
            raise InputError("--predictive mean needs a Dirichlet student, kdgan trains a softmax")
        return StudentHead("softmax", None, "base", measures)

    def fused(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Any], Any]:
        """See :meth:`DistillationCriterion.fused`."""
        given = token_features(model, batch.net_input, batch.token_mask)
        target = self.stored_targets(batch)
        if target is None:
            target = self.task.teachers.statistics(
                batch.teacher_input, batch.token_mask, batch.temperature
            )

        def play(features: Tensor) -> Tensor:
            self._played = chunked_kdgan_loss(
                features,
                given.weight,
                target,
                batch.references,
                self.discriminator,
                self.teacher,
                self.settings,
                bias=given.bias,
                mix_weight=self.cfg.mix_weight,
                label_smoothing=self.cfg.label_smoothing,
            )
            return self._played.loss_sum

        loss = given.inside(play)
        output = {
            "nll_loss": -self._played.log_probs.data,
            "n_correct": self._played.correct.data,
            "kdgan_student_kl": self._played.student_divergence.data,
            "kdgan_teacher_kl": self._played.teacher_divergence.data,
            "kdgan_told_apart": self._played.told_apart.data,
        }
        return loss, output, given.extra

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log what every distillation does, and how the game stands."""
        super().reduce_metrics(logging_outputs)
        tokens = sum(output["ntokens"] for output in logging_outputs)
        for name in ("kdgan_student_kl", "kdgan_teacher_kl", "kdgan_told_apart"):
            if all(name in output for output in logging_outputs):
                total = sum(output[name] for output in logging_outputs)
                metrics.log_scalar(name, total / tokens, tokens, round=4)
