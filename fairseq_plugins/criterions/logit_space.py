"""``--criterion logit_laplace``, ``logit_gaussian``, ``concrete``: a distribution over logits."""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

from fairseq_plugins.criterions import distillation_metrics
from fairseq_plugins.criterions.distillation import DistillationConfig
from fairseq_plugins.criterions.outputs import MembersCriterion
from fairseq_plugins.features import TokenFeatures
from seqdistill.kernels import (
    DistillationLoss,
    LogitSpaceLoss,
    MemberLogits,
    MemberProjections,
    fused_logit_space_loss,
    member_statistics,
)
from seqdistill.losses.logit_space import COMPARABLE
from seqdistill.student import StudentHead
from seqdistill.uncertainty.logit_space import drawn_statistics


@dataclass
class ConcreteConfig(DistillationConfig):
    """Options of ``concrete``."""

    mean_weight: float = field(
        default=1.0,
        metadata={"help": "weight of KL(ensemble's mean || softmax of the logits), per token"},
    )
    likelihood_weight: float = field(
        default=1.0,
        metadata={
            "help": "weight of the negative log-likelihood of the members' logits, per entry of "
            "the vocabulary"
        },
    )
    student_samples: int = field(
        default=16,
        metadata={
            "help": "members drawn from the student for its measures in decoding, unless "
            "--dirichlet-samples says otherwise; saved in the checkpoint"
        },
    )


@dataclass
class LogitSpaceConfig(ConcreteConfig):
    """Options of ``logit_laplace`` and ``logit_gaussian``."""

    comparable_logits: ChoiceEnum(list(COMPARABLE)) = field(  # type: ignore[valid-type]
        default="log_softmax",
        metadata={
            "help": "how the members' logits are made comparable: log_softmax, or centred, less "
            "their mean over the vocabulary; saved in the checkpoint"
        },
    )
    scale_rank: int = field(
        default=0,
        metadata={
            "help": "width of a layer before the projection that makes the scales, r (D + V) "
            "weights; 0: none, D V weights. Saved in the checkpoint"
        },
    )


class LogitSpaceCriterion(MembersCriterion):
    """Distil an ensemble into a distribution over its members' logits."""

    cfg: ConcreteConfig
    distribution: str

    def distillation_loss(self) -> DistillationLoss:
        """Return what is mixed; the likelihood itself is :meth:`loss_of_logits`."""
        self.of_logits = self.loss_of_logits()
        return DistillationLoss(
            "mean_kl", mix_weight=self.cfg.mix_weight, label_smoothing=self.cfg.label_smoothing
        )

    def loss_of_logits(self) -> LogitSpaceLoss:
        """Return the likelihood and its weights."""
        cfg = self.cfg
        return LogitSpaceLoss(
            self.distribution,
            comparable=str(getattr(cfg, "comparable_logits", "log_softmax")),
            mean_weight=cfg.mean_weight,
            likelihood_weight=cfg.likelihood_weight,
            mix_weight=cfg.mix_weight,
            label_smoothing=cfg.label_smoothing,
        )

    def settings(self) -> dict[str, Any]:
        """Return what the checkpoint must know of the student's outputs."""
        return {"samples": self.cfg.student_samples}

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return a distribution over logits."""
        return StudentHead(self.distribution, None, str(predictive), measures, self.settings())

    def loss_of_outputs(
        self,
        given: TokenFeatures,
        outputs: Tensor,
        target: MemberProjections | MemberLogits,
        references: Tensor,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the likelihood of the members, and what is logged."""
        output: dict[str, Any] = {}

        def loss_sum(features: Tensor) -> Tensor:
            result = fused_logit_space_loss(
                features,
                given.weight,
                outputs,
                target,
                loss=self.of_logits,
                bias=given.bias,
                references=references,
            )
            if not self.training:
                with torch.no_grad():
                    logits = torch.nn.functional.linear(features, given.weight, given.bias)
                    student = drawn_statistics(self.task.student_head, logits, outputs)
                    output.update(
                        distillation_metrics.members_output(
                            student, member_statistics(target), references
                        )
                    )
            # Of the location, which is what a base predictive decodes with.
            output["nll_loss"] = -result.log_probs.sum()
            output["n_correct"] = result.correct.sum()
            return result.loss_sum

        return given.inside(loss_sum), output


class VocabularyScalesCriterion(LogitSpaceCriterion):
    """One with a scale for every piece of the vocabulary."""

    cfg: LogitSpaceConfig

    def settings(self) -> dict[str, Any]:
        """See :meth:`LogitSpaceCriterion.settings`."""
        cfg = self.cfg
        own = {"comparable": str(cfg.comparable_logits), "rank": cfg.scale_rank}
        return {**super().settings(), **own}


@register_criterion("logit_laplace", dataclass=LogitSpaceConfig)
class LogitLaplaceCriterion(VocabularyScalesCriterion):
    """A Laplace distribution of each logit."""

    distribution = "laplace"


@register_criterion("logit_gaussian", dataclass=LogitSpaceConfig)
class LogitGaussianCriterion(VocabularyScalesCriterion):
    """A Gaussian distribution of each logit."""

    distribution = "gaussian"


@register_criterion("concrete", dataclass=ConcreteConfig)
class ConcreteCriterion(LogitSpaceCriterion):
    """A Concrete distribution, with one temperature a token."""

    distribution = "concrete"
