"""What the distillation criteria share: teachers, mixing with cross-entropy, and the log."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor

from fairseq_plugins.criterions import distillation_metrics
from seqdistill.errors import InputError
from seqdistill.losses import label_smoothed_cross_entropy
from seqdistill.losses.schedules import annealed_temperature
from seqdistill.student import StudentHead
from seqdistill.teachers import EnsembleStatistics


@dataclass
class DistillationConfig(FairseqDataclass):
    """Options of every distillation criterion."""

    mix_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight w of label-smoothed cross-entropy: (1 - w) distillation + w "
            "cross-entropy, per token"
        },
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "epsilon of the cross-entropy that is mixed in"}
    )
    teacher_temperature: float = field(
        default=1.0, metadata={"help": "the teachers' temperature T0, in training only"}
    )
    temperature_anneal_start: int = field(
        default=0, metadata={"help": "update at which the temperature starts to fall towards 1"}
    )
    temperature_anneal_end: int = field(
        default=0,
        metadata={"help": "update from which the temperature is 1; 0 keeps T0 for good"},
    )
    sentence_avg: bool = II("optimization.sentence_avg")


class DistillationCriterion(FairseqCriterion):
    """A criterion whose targets are an ensemble's; subclasses name the loss and the head.

    The task must be one with teachers (``ensemble_teacher_translation``).
    """

    needs_teachers = True

    def __init__(self, cfg: DistillationConfig, task: Any) -> None:
        super().__init__(task)
        if not hasattr(task, "teachers"):
            raise InputError(
                f"criterion {cfg._name} needs teachers; train with --task "
                "ensemble_teacher_translation --ensemble-paths …"
            )
        if not 0 <= cfg.mix_weight <= 1:
            raise InputError(f"--mix-weight: expected a number in [0, 1], got {cfg.mix_weight}")
        self.cfg = cfg
        self.num_updates = 0
        self._temperature_at(0)  # a bad schedule fails now, not after an hour

    @classmethod
    def build_criterion(cls, cfg: DistillationConfig, task: Any) -> "DistillationCriterion":
        """Build the criterion from its configuration."""
        return cls(cfg, task)

    def distillation_loss(
        self, logits: Tensor, statistics: EnsembleStatistics
    ) -> tuple[Tensor, Tensor]:
        """Return loss sum (nats) and count; logits (N, V), statistics of the same tokens."""
        raise NotImplementedError

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return how the logits of a student of this criterion are read."""
        raise NotImplementedError

    def set_num_updates(self, num_updates: int) -> None:
        """Tell the temperature schedule the time."""
        self.num_updates = num_updates

    def _temperature_at(self, update: int) -> float:
        cfg = self.cfg
        return annealed_temperature(
            update,
            cfg.teacher_temperature,
            cfg.temperature_anneal_start,
            cfg.temperature_anneal_end,
        )

    def _cache_key(self, sample: dict[str, Any], temperature: float) -> Hashable:
        """Return what identifies a batch's statistics; None while the temperature falls."""
        if self.training and self._temperature_at(self.num_updates + 1) != temperature:
            return None
        return self.training, tuple(sample["id"].tolist())

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss sum (nats), the sample size, and what is logged."""
        net_output = model(**sample["net_input"])
        target = model.get_targets(sample, net_output)
        token_mask = target.ne(self.padding_idx)
        logits, references = net_output[0][token_mask], target[token_mask]  # (N, V), (N)
        temperature = self._temperature_at(self.num_updates) if self.training else 1.0
        try:
            statistics = self.task.teachers.statistics(
                sample["net_input"],
                token_mask,
                temperature,
                batch=self._cache_key(sample, temperature),
            )
        except InputError as error:
            raise InputError(f"update {self.num_updates}: {error}") from error
        loss, _ = self.distillation_loss(logits, statistics)
        if self.cfg.mix_weight:
            cross_entropy, _ = label_smoothed_cross_entropy(
                logits, references, label_smoothing=self.cfg.label_smoothing
            )
            loss = (1 - self.cfg.mix_weight) * loss + self.cfg.mix_weight * cross_entropy
        sample_size = target.size(0) if self.cfg.sentence_avg else sample["ntokens"]
        with torch.no_grad():
            logging_output = distillation_metrics.logging_output(
                logits, references, statistics, self.task.student_head, detailed=not self.training
            )
        logging_output |= {
            "loss": loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": target.size(0),
            "sample_size": sample_size,
            "teacher_temperature": temperature * sample_size,
        }
        return loss, sample_size, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate the logging outputs of data-parallel training."""
        distillation_metrics.reduce(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every entry is a sum (histograms included), so ranks are added up."""
        return True
