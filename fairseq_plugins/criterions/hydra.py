"""``--criterion hydra``: a head for each member of the ensemble, on one body."""

from dataclasses import dataclass, field
from typing import Any

from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_plugins.criterions import distillation_metrics
from fairseq_plugins.criterions.distillation import DistillationConfig
from fairseq_plugins.criterions.outputs import MembersCriterion
from fairseq_plugins.features import TokenFeatures
from fairseq_plugins.teachers import find_members
from seqdistill.errors import InputError
from seqdistill.kernels import (
    DistillationLoss,
    MemberLogits,
    MemberProjections,
    fused_hydra_loss,
    member_statistics,
)
from seqdistill.student import StudentHead
from seqdistill.student.hydra import DEFAULT_RANK


@dataclass
class HydraConfig(DistillationConfig):
    """Options of ``hydra``."""

    hydra_rank: int = field(
        default=DEFAULT_RANK,
        metadata={"help": "width of a head's inner layer; saved in the checkpoint"},
    )


@register_criterion("hydra", dataclass=HydraConfig)
class HydraCriterion(MembersCriterion):
    """Distil every member of an ensemble into a head of its own."""

    cfg: HydraConfig

    def distillation_loss(self) -> DistillationLoss:
        """Return the KL that each head has from its member."""
        cfg = self.cfg
        return DistillationLoss(
            "mean_kl", mix_weight=cfg.mix_weight, label_smoothing=cfg.label_smoothing
        )

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a head for each of the teachers."""
        if str(predictive) != "base":
            raise InputError("--predictive mean needs a Dirichlet student, hydra trains heads")
        members = len(find_members(self.task.cfg.ensemble_paths))
        settings = {"members": members, "rank": self.cfg.hydra_rank}
        return StudentHead("hydra", None, "base", measures, settings)

    def loss_of_outputs(
        self,
        given: TokenFeatures,
        outputs: Tensor,
        target: MemberProjections | MemberLogits,
        references: Tensor,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the mean of the heads' losses, and what is logged."""
        products = str(self.cfg.loss_products)
        output: dict[str, Any] = {}

        def loss_sum(heads: Tensor) -> Tensor:
            result = fused_hydra_loss(
                heads,
                given.weight,
                target,
                bias=given.bias,
                loss=self.loss,
                references=references,
                products=None if products == "auto" else products,
                backend=str(self.cfg.loss_backend),
            )
            if self.training:
                output["nll_loss"] = -result.log_probs.sum()
                output["n_correct"] = result.correct.sum()
            else:
                M = len(heads)
                student = MemberProjections(list(heads), [given.weight] * M, [given.bias] * M)
                statistics = member_statistics(student), member_statistics(target)
                output.update(distillation_metrics.members_output(*statistics, references))
            return result.loss_sum

        return given.inside(loss_sum, outputs), output
