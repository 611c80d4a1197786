"""``--criterion expectations``: the mean distribution, and expectations beside it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_plugins.criterions import distillation_metrics
from fairseq_plugins.criterions.distillation import DistillationConfig
from fairseq_plugins.criterions.outputs import OutputsCriterion
from fairseq_plugins.features import TokenFeatures
from seqdistill.errors import InputError
from seqdistill.kernels import DistillationLoss
from seqdistill.losses import expectations_loss, label_smoothed_cross_entropy
from seqdistill.student import StudentHead
from seqdistill.student.expectations import (
    DEFAULT_EXPECTATIONS,
    DEFAULT_RANK,
    check_expectations,
    targets_of,
)


@dataclass
class ExpectationsConfig(DistillationConfig):
    """Options of ``expectations``."""

    expectations: str = field(
        default=",".join(DEFAULT_EXPECTATIONS),
        metadata={
            "help": "what is learnt beside the mean distribution, with commas between: "
            "data_uncertainty or mutual_information, and epkl or reverse_mutual_information; saved "
            "in the checkpoint"
        },
    )
    expectations_rank: int = field(
        default=DEFAULT_RANK,
        metadata={"help": "width of the layer before these outputs; saved in the checkpoint"},
    )
    expectations_weight: float = field(
        default=1.0, metadata={"help": "weight of their loss, added to that of the distribution"}
    )


@register_criterion("expectations", dataclass=ExpectationsConfig)
class ExpectationsCriterion(OutputsCriterion):
    """Distil an ensemble's mean, and its expected entropy or other expectations."""

    cfg: ExpectationsConfig

    @property
    def least_members(self) -> int:  # type: ignore[override]
        """1 with samples that come and go; where teachers stand still, one has nothing to say."""
        moves = str(getattr(self.task.cfg, "moving_teacher", "none")) != "none"
        return 1 if moves else 2

    def __init__(self, cfg: ExpectationsConfig, task: Any) -> None:
        super().__init__(cfg, task)
        if not cfg.expectations_weight >= 0:
            raise InputError(
                f"--expectations-weight: expected 0 or more, got {cfg.expectations_weight}"
            )
        self.names = check_expectations(
            name.strip() for name in cfg.expectations.split(",") if name.strip()
        )
        check_samples(self.names, task.cfg)

    def distillation_loss(self) -> DistillationLoss:
        """Return the KL from the ensemble's mean."""
        cfg = self.cfg
        return DistillationLoss(
            "mean_kl", mix_weight=cfg.mix_weight, label_smoothing=cfg.label_smoothing
        )

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a head that predicts these expectations."""
        if str(predictive) != "base":
            raise InputError(
                "--predictive mean needs a Dirichlet student, expectations trains none"
            )
        settings = {"names": self.names, "rank": self.cfg.expectations_rank}
        return StudentHead("expectations", None, "base", measures, settings)

    def loss_of_outputs(
        self, given: TokenFeatures, outputs: Tensor, target: Any, references: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of the distribution and of the expectations, and what is logged."""
        if target is None:  # a subset without a store, which a warning has said
            logits = given.logits()
            loss, _ = label_smoothed_cross_entropy(logits, references)
            return loss, distillation_metrics.logging_output(
                logits, references, None, self.task.student_head, detailed=False
            )
        loss, rows = self.fused_loss(given, target, references)
        expected, _ = expectations_loss(outputs, targets_of(self.names, rows))
        with torch.no_grad():
            V = given.projection.out_features
            output = distillation_metrics.rows_output(rows, V, self.task.student_head)
            output["expectations_loss"] = expected.detach()
            if not self.training:
                logits = given.logits()
                output |= distillation_metrics.expectations_output(
                    logits, outputs, rows, self.names
                )
        return loss + self.cfg.expectations_weight * expected, output


def check_samples(names: tuple[str, ...], options: Any) -> None:
    """Raise an :class:`InputError` if these expectations cannot be had of a teacher that moves.

    The mean over time of E[H(p)] is that of one sample at a time; disagreement needs several.

    Args:
        names: of the expectations.
        options: of the task.
    """
    kind = str(getattr(options, "moving_teacher", "none"))
    if kind == "average":
        raise InputError(
            "criterion expectations learns about members, and --moving-teacher average is one "
            "model; take --moving-teacher posterior, or criterion mean_kl"
        )
    if kind == "posterior" and options.posterior_window < 2 and names != ("data_uncertainty",):
        raise InputError(
            f"--expectations {','.join(names)}: one sample at a time (--posterior-window 1) tells "
            "of data_uncertainty alone, from which mutual information follows; learn that, or "
            "take a larger window"
        )
