"""Label-smoothed cross-entropy of a model whose layers have gates."""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics

from seqdistill.teachers.cheap.gates import gates_of


@dataclass
class GatedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options beside those of fairseq's ``label_smoothed_cross_entropy``."""

    gate_kl_weight: float = field(
        default=0.05,
        metadata={
            "help": "w: the loss of a token grows by w times the KL of the gates from their prior; "
            "1 over the training set's target tokens for the evidence bound"
        },
    )


@register_criterion("gated_cross_entropy", dataclass=GatedCrossEntropyConfig)
class GatedCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """Cross-entropy plus the divergence of the gates from their prior, in training."""

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int,
        report_accuracy: bool,
        gate_kl_weight: float,
    ) -> None:
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.gate_kl_weight = gate_kl_weight

    def forward(self, model: Any, sample: Any, reduce: bool = True) -> Any:
        """Return loss sum, sample size and what is logged, as fairseq's."""
        loss, sample_size, logging_output = super().forward(model, sample, reduce)
        if not model.training:
            return loss, sample_size, logging_output
        gates = gates_of(model)
        divergence = torch.stack([gate.divergence() for gate in gates]).sum()
        kept = torch.stack([gate.probability.detach() for gate in gates]).sum()
        loss = loss + self.gate_kl_weight * sample_size * divergence
        logging_output |= {
            "loss": loss.detach(),
            "gate_kl": divergence.detach() * sample_size,
            "gate_kept": kept * sample_size,
        }
        return loss, sample_size, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: Any) -> None:
        """Log fairseq's numbers, and in training the gates'."""
        super().reduce_metrics(logging_outputs)
        if not any("gate_kl" in log for log in logging_outputs):
            return
        tokens = sum(log["sample_size"] for log in logging_outputs)
        for name in ("gate_kl", "gate_kept"):
            total = sum(float(log.get(name, 0.0)) for log in logging_outputs)
            metrics.log_scalar(name, total / tokens if tokens else 0.0, tokens, round=4)
