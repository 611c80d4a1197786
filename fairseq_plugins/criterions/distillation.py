"""What the distillation criteria share: targets, the fused and the plain loss, and the log."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II
from torch import Tensor

from fairseq_plugins.criterions import distillation_metrics
from fairseq_plugins.criterions.boundary import BoundarySamples
from fairseq_plugins.criterions.ctc import ctc_loss
from fairseq_plugins.criterions.hidden_states import HiddenStates, states_term
from fairseq_plugins.criterions.relations import Relations
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
    ctc_weight: float = field(
        default=0.0,
        metadata={
            "help": "speech: weight of the CTC loss on the encoder, added to the distillation loss"
        },
    )
    relational_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the distance between the similarity graphs of a batch's sentences "
            "that student and teachers see, added to the loss; 0 for none"
        },
    )
    relational_states: str = field(
        default="encoder,decoder",
        metadata={"help": "states that the graphs are of, with commas between them"},
    )
    relational_neighbours: int = field(
        default=0,
        metadata={"help": "edges of the graphs: the k nearest sentences of each; 0 for all"},
    )
    boundary_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the same loss on boundary samples, sources moved to where the "
            "student's decision changes, added to the loss; 0 for none"
        },
    )
    boundary_steps: int = field(
        default=1, metadata={"help": "steps from a source to the student's boundary"}
    )
    boundary_reach: float = field(
        default=0.5, metadata={"help": "largest share of other words in a boundary sample"}
    )
    boundary_seed: int = field(
        default=1, metadata={"help": "of the decisions that boundary samples are made for"}
    )
    state_store: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "store that seqdistill cache-states made of the training set: teachers' hidden "
            "states that the student's are to meet"
        },
    )
    state_weight: float = field(
        default=0.0,
        metadata={"help": "weight of the distance from the stored states, added to the loss"},
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
        if not cfg.ctc_weight >= 0:
            raise InputError(f"--ctc-weight: expected 0 or more, got {cfg.ctc_weight}")
        self.cfg = cfg
        self.relations = self.boundary = None
        for name in ("relational_weight", "boundary_weight"):
            if not getattr(cfg, name) >= 0:
                option = "--" + name.replace("_", "-")
                raise InputError(f"{option}: expected 0 or more, got {getattr(cfg, name)}")
        if cfg.relational_weight > 0:
            self.relations = Relations(
                cfg.relational_weight, cfg.relational_states, cfg.relational_neighbours
            )
        if cfg.boundary_weight > 0:
            self.boundary = BoundarySamples(
                cfg.boundary_weight, cfg.boundary_steps, cfg.boundary_reach, cfg.boundary_seed
            )
        self.states: HiddenStates | None = states_term(cfg.state_weight, cfg.state_store, task)
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
        for term in (self.relations, self.boundary):
            if term is None:
                continue
            if self.cfg.no_fused_loss:
                raise InputError(
                    "--relational-weight and --boundary-weight go with the fused loss; leave "
                    "--no-fused-loss away"
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
        target = sample["target"]
        token_mask = target.ne(self.padding_idx)
        references = target[token_mask]  # (N)
        temperature = self._temperature_at(self.num_updates) if self.training else 1.0
        fused = self.training and not self.cfg.no_fused_loss and gives_features(model)
        compute = self._fused if fused else self._plain
        try:
            with ExitStack() as stack:
                if self.relations is not None and self.training:
                    stack.enter_context(self.relations.watching(token_mask))
                if self.states is not None and self.training:
                    stack.enter_context(self.states.watching())
                loss, logging_output, extra = compute(
                    model, sample, token_mask, references, temperature
                )
            if self.training:
                added, logged = self._terms(
                    compute, model, sample, token_mask, references, temperature
                )
                loss = loss + added
                logging_output |= logged
            if self.cfg.ctc_weight > 0:
                aligned, logged = ctc_loss(model, extra, sample)
                loss = loss + self.cfg.ctc_weight * aligned
                logging_output |= logged
        except InputError as error:
            raise InputError(f"update {self.num_updates}: {error}") from error
        sample_size = target.size(0) if self.cfg.sentence_avg else sample["ntokens"]
        logging_output |= {
            "loss": loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": target.size(0),
            "sample_size": sample_size,
            "teacher_temperature": temperature * sample_size,
        }
        return loss, sample_size, logging_output

    def _terms(
        self,
        compute: Any,
        model: Any,
        sample: dict[str, Any],
        token_mask: Tensor,
        references: Tensor,
        temperature: float,
    ) -> tuple[Tensor | float, dict[str, Any]]:
        """Return what is added to the loss sum of a batch, and what is logged of it."""
        total: Tensor | float = 0.0
        logged: dict[str, Any] = {}
        if self.relations is not None:
            # One number a batch, so that it weighs as much beside the mean of many tokens or few.
            count = token_mask.size(0) if self.cfg.sentence_avg else sample["ntokens"]
            distance = self.relations.loss() * count
            total = total + self.relations.weight * distance
            logged["relational_loss"] = distance.data
        if self.states is not None:
            distance = self.states.loss(sample, bool(self.cfg.sentence_avg))
            total = total + self.states.weight * distance
            logged["state_loss"] = distance.data
        if self.boundary is not None:
            mixture = self.boundary.sample(sample, token_mask, self.num_updates)
            with self.boundary.mixing(mixture):
                loss, _, _ = compute(model, sample, token_mask, references, temperature)
            total = total + self.boundary.weight * loss
            logged["boundary_loss"] = loss.data
            logged["boundary_share"] = mixture.share.sum()
        return total, logged

    def _fused(
        self,
        model: Any,
        sample: dict[str, Any],
        token_mask: Tensor,
        references: Tensor,
        temperature: float,
    ) -> tuple[Tensor, dict[str, Any], Any]:
        given = token_features(model, sample["net_input"], token_mask)
        target = self.task.stored_targets(sample, token_mask, self.training)
        if target is None:
            target = self.task.teachers.members(teacher_input(sample), token_mask, temperature)
        loss, rows = self.fused_loss(given, target, references)
        with torch.no_grad():
            V = given.projection.out_features
            output = distillation_metrics.rows_output(rows, V, self.task.student_head)
        return loss, output, given.extra

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

    def _plain(
        self,
        model: Any,
        sample: dict[str, Any],
        token_mask: Tensor,
        references: Tensor,
        temperature: float,
    ) -> tuple[Tensor, dict[str, Any], Any]:
        logits, extra = model(**sample["net_input"])[:2]
        logits = logits[token_mask]  # (N, V)
        target = self.task.stored_targets(sample, token_mask, self.training)
        if target is None and self.task.teachers is not None:
            target = self.task.teachers.statistics(teacher_input(sample), token_mask, temperature)
        if target is None:  # a subset without a store, which a warning has said
            loss, _ = label_smoothed_cross_entropy(logits, references)
        else:
            loss, _ = plain_distillation_loss(logits, target, loss=self.loss, references=references)
        with torch.no_grad():
            output = distillation_metrics.logging_output(
                logits, references, target, self.task.student_head, detailed=not self.training
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


def teacher_input(sample: dict[str, Any]) -> dict[str, Any]:
    """Return what teachers read of a batch: what the student reads, unless the task says more."""
    given: dict[str, Any] = sample.get("teacher_net_input") or sample["net_input"]
    return given
