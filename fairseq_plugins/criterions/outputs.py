"""What criteria of students with more outputs than logits share."""

from typing import Any

from torch import Tensor

from fairseq_plugins.criterions.batch import Batch
from fairseq_plugins.criterions.distillation import DistillationConfig, DistillationCriterion
from fairseq_plugins.features import TokenFeatures, token_features
from seqdistill.errors import InputError


class OutputsCriterion(DistillationCriterion):
    """A criterion whose student has more outputs; subclasses say what they learn.

    They give :meth:`student_head` and :meth:`loss_of_outputs`; the student's outputs are built of
    the head. There is one form of the loss, from features, in training and validation.
    """

    def __init__(self, cfg: DistillationConfig, task: Any) -> None:
        super().__init__(cfg, task)
        if cfg.no_fused_loss:
            raise InputError(
                f"--no-fused-loss: criterion {cfg._name} has one form, from the student's "
                "features; leave it away"
            )

    def loss_of_outputs(
        self, given: TokenFeatures, outputs: Tensor, target: Any, references: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss sum (nats) of N tokens, and what is logged of them.

        Args:
            given: the student's features (N, D) and its projection.
            outputs: of those features.
            target: what :meth:`targets_of` gave.
            references: (N) reference pieces.
        """
        raise NotImplementedError

    def targets_of(self, batch: Batch) -> Any:
        """Return the targets of a batch's counted tokens: stored ones, or the members."""
        stored = self.stored_targets(batch)
        if stored is not None or self.task.teachers is None:
            return stored
        return self.task.teachers.members(batch.teacher_input, batch.token_mask, batch.temperature)

    def fused(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Any], Any]:
        """See :meth:`DistillationCriterion.fused`."""
        given = token_features(model, batch.net_input, batch.token_mask)
        outputs = model.decoder.student_outputs(given.features)
        target = self.targets_of(batch)
        loss, output = self.loss_of_outputs(given, outputs, target, batch.references)
        return loss, output, given.extra

    plain = fused


class MembersCriterion(OutputsCriterion):
    """One whose loss reads every member's distribution, which no store and no sum of shards has."""

    def __init__(self, cfg: DistillationConfig, task: Any) -> None:
        super().__init__(cfg, task)
        if getattr(task.cfg, "target_store", None):
            raise InputError(
                f"--criterion {cfg._name} learns from every member's distribution, and a target "
                "store keeps what they say together; train with --ensemble-paths and without "
                "--target-store"
            )
        if str(task.cfg.teacher_placement) == "shard":
            raise InputError(
                f"--criterion {cfg._name} learns from every member's distribution, and "
                "--teacher-placement shard sends their sums; take replicate or offload"
            )
