"""What the distillation criteria share: targets, the fused and the plain loss, and the log."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II
from torch import Tensor, nn

from fairseq_plugins.criterions import distillation_metrics
from fairseq_plugins.criterions.batch import Batch, Distilled
from fairseq_plugins.criterions.terms import TERMS, TermOptions
from fairseq_plugins.features import TokenFeatures, gives_features, token_features
from fairseq_plugins.placement import Teachers
from fairseq_plugins.stores import TargetStores
from seqdistill.errors import InputError
from seqdistill.kernels import (
    BACKENDS,
    PRODUCTS,
    DistillationLoss,
    FusedLoss,
    TokenRows,
    fused_distillation_loss,
    plain_distillation_loss,
)
from seqdistill.losses import label_smoothed_cross_entropy
from seqdistill.losses.schedules import annealed_temperature
from seqdistill.student import StudentHead
from seqdistill.targets.sparse import SparseTarget


@dataclass
class DistillationConfig(TermOptions, FairseqDataclass):
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
    no_fused_loss: bool = field(
        default=False,
        metadata={
            "help": "compute the loss from logits of the whole batch instead of fusing it with "
            "the projections; slower, the same to rounding"
        },
    )
    loss_backend: ChoiceEnum(list(BACKENDS)) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={"help": "what computes the fused loss; `seqdistill doctor` says what is there"},
    )
    loss_products: ChoiceEnum(["auto", *PRODUCTS]) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "precision of the fused loss's matrix products, teachers' included; auto: that "
            "of the model. bfloat16 pays where the processor computes in it"
        },
    )
    sentence_avg: bool = II("optimization.sentence_avg")


class DistillationCriterion(FairseqCriterion):
    """A criterion whose targets are an ensemble's; subclasses name the loss and the head.

    The task must be one with teachers or stored targets (``ensemble_teacher_translation``).
    Training fuses the loss with the projections where the student gives features; validation
    takes the plain path, because its log needs the student's whole distribution.
    """

    needs_teachers = True
    #: 1 where a mean is all that is distilled, so that one model can teach.
    least_members = 2

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
        terms = (term.from_options(cfg, task) for term in TERMS)
        # By name, under which what they learn is in the checkpoint.
        self.terms = nn.ModuleDict({term.name: term for term in terms if term is not None})
        self.num_updates = 0
        self.loss = self.distillation_loss()
        self._temperature_at(0)  # a bad schedule fails now, not after an hour

    @classmethod
    def build_criterion(cls, cfg: DistillationConfig, task: Any) -> "DistillationCriterion":
        """Build the criterion from its configuration."""
        return cls(cfg, task)

    def distillation_loss(self) -> DistillationLoss:
        """Return which loss is computed."""
        raise NotImplementedError

    def student_head(self, predictive: str, measures: tuple[str, ...] | None) -> StudentHead:
        """Return how the logits of a student of this criterion are read."""
        raise NotImplementedError

    def meet(self, student: Any, teachers: Teachers | None) -> None:
        """Get ready for training with these models; ``teachers`` is None with stored targets.

        Raises:
            InputError: a term of the loss cannot be had with them.
        """
        term: Any
        for name, term in self.terms.items():
            if term.needs_features and self.cfg.no_fused_loss:
                raise InputError(
                    f"terms such as --{name}-weight go with the fused loss; leave --no-fused-loss "
                    "away"
                )
            term.meet(student, teachers)

    def target_stores(self, paths: str) -> TargetStores:
        """Return the stores of ``--target-store`` as this criterion needs them."""
        initial = self._temperature_at(0)
        annealed = initial != 1 and self.cfg.temperature_anneal_end > 0
        return TargetStores(paths, self.loss, initial, annealed, self.least_members)

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

    def forward(
        self, model: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss sum (nats), the sample size, and what is logged."""
        token_mask = sample["target"].ne(self.padding_idx)
        batch = Batch(
            sample,
            token_mask,
            references=sample["target"][token_mask],
            temperature=self._temperature_at(self.num_updates) if self.training else 1.0,
            update=self.num_updates,
            by_sentence=bool(self.cfg.sentence_avg),
        )
        try:
            loss, logging_output = self._batch_loss(model, batch)
        except InputError as error:
            raise InputError(f"update {self.num_updates}: {error}") from error
        logging_output |= {
            "loss": loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": batch.sample_size,
            "teacher_temperature": batch.temperature * batch.sample_size,
        }
        return loss, batch.sample_size, logging_output

    def _batch_loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss sum of a batch with its terms, and what is logged of it."""
        fused = self.training and not self.cfg.no_fused_loss and gives_features(model)
        compute = self.fused if fused else self.plain
        modules: Any = self.terms.values()
        terms = [term for term in modules if self.training or term.in_validation]
        with ExitStack() as stack:
            for term in terms:
                stack.enter_context(term.watching(batch))
            loss, logged, extra = compute(model, batch)
        distilled = Distilled(model, extra, again=lambda: compute(model, batch)[0])
        for term in terms:
            added, more = term.added(batch, distilled)
            loss = loss + term.weight * added
            logged |= more
        return loss, logged

    def features_of(self, model: Any, batch: Batch) -> TokenFeatures:
        """Return the student's features of the counted tokens."""
        return token_features(model, batch.net_input, batch.token_mask)

    def logits_of(self, model: Any, batch: Batch) -> tuple[Tensor, Any]:
        """Return the student's (N, V) logits of the counted tokens, and its decoder's extra."""
        logits, extra = model(**batch.net_input)[:2]
        return logits[batch.token_mask], extra

    def fused(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Any], Any]:
        """Return the loss sum of a batch by features, what is logged, the decoder's extra."""
        given = self.features_of(model, batch)
        target = self.stored_targets(batch)
        if target is None:
            target = self.task.teachers.members(
                batch.teacher_input, batch.token_mask, batch.temperature
            )
        loss, rows = self.fused_loss(given, target, batch.references)
        with torch.no_grad():
            V = given.projection.out_features
            output = distillation_metrics.rows_output(rows, V, self.task.student_head)
        return loss, output, given.extra

    def stored_targets(self, batch: Batch) -> SparseTarget | None:
        """Return the stored targets of a batch's counted tokens; None if there are none."""
        stored: SparseTarget | None
        stored = self.task.stored_targets(batch.sample, batch.token_mask, self.training)
        return stored

    def fused_loss(
        self, given: TokenFeatures, target: Any, references: Tensor
    ) -> tuple[Tensor, TokenRows]:
        """Return the loss sum of N tokens, run inside the projection, and what it knows of them."""
        products = str(self.cfg.loss_products)
        results: list[FusedLoss] = []

        def loss_sum(features: Tensor) -> Tensor:
            result = fused_distillation_loss(
                features,
                given.weight,
                target,
                bias=given.bias,
                loss=self.loss,
                references=references,
                products=None if products == "auto" else products,
                backend=str(self.cfg.loss_backend),
            )
            results.append(result)
            return result.loss_sum

        loss = given.inside(loss_sum)
        return loss, results[0].rows

    def plain(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Any], Any]:
        """Return the same by logits of the whole batch."""
        logits, extra = self.logits_of(model, batch)
        target = self.stored_targets(batch)
        if target is None and self.task.teachers is not None:
            target = self.task.teachers.statistics(
                batch.teacher_input, batch.token_mask, batch.temperature
            )
        if target is None:  # a subset without a store, which a warning has said
            loss, _ = label_smoothed_cross_entropy(logits, batch.references)
        else:
            loss, _ = plain_distillation_loss(
                logits, target, loss=self.loss, references=batch.references
            )
        with torch.no_grad():
            output = distillation_metrics.logging_output(
                logits, batch.references, target, self.task.student_head, detailed=not self.training
            )
        return loss, output, extra

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate the logging outputs of data-parallel training."""
        distillation_metrics.reduce(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every entry is a sum (histograms included), so ranks are added up."""
        return True
