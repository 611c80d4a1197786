"""What every task of this package does: teachers and heads in training, uncertainty in decoding."""

import copy
from typing import Any

from fairseq.criterions import FairseqCriterion
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from fairseq_plugins.criterions.batch import teacher_input
from fairseq_plugins.freezing import freeze_parts
from fairseq_plugins.gates import check_gates, gate_layers, gate_settings
from fairseq_plugins.heads import attach_head, with_predictive
from fairseq_plugins.moving.teachers import (
    STATE,
    MovingTeachers,
    check_options,
    go_on,
    moving_teachers,
)
from fairseq_plugins.outputs import attach_outputs
from fairseq_plugins.placement import (
    Teachers,
    check_no_placement,
    check_store_options,
    place_teachers,
)
from fairseq_plugins.stores import TargetStores
from fairseq_plugins.tasks.batches import WholeBatches
from fairseq_plugins.tasks.decoding import UncertainDecoding
from fairseq_plugins.tasks.student import StudentInTraining
from seqdistill.student import StudentHead
from seqdistill.targets.sparse import SparseTarget


class DistillationTask(UncertainDecoding, WholeBatches):
    """Frozen teachers, student heads and uncertainty, for any of fairseq's tasks with one decoder.

    It stands before fairseq's own class among the parents of a task, which calls :meth:`begin`
    last in its ``__init__``, passes what fairseq builds through :meth:`with_head` and
    :meth:`with_teachers`, and says how one member is loaded (:meth:`load_member`).

    Training: a distillation criterion asks for :attr:`teachers`. How the student's logits are to
    be read (:class:`~seqdistill.student.StudentHead`) travels in the checkpoint as the task's
    state; decoding gives it back to each model as ``model.student_head``.
    """

    cfg: Any

    def begin(self, cfg: Any) -> None:
        """Take the options; ``cfg`` has those of ``DistillationOptions``."""
        self.cfg = cfg
        self.teachers: Teachers | None = None
        self.stores: TargetStores | None = None
        self.student_head: StudentHead | None = None
        self._student: StudentInTraining | None = None
        self._head_of_next_model: StudentHead | None = None
        self._gates = gate_settings(cfg)
        self._gates_of_next_model: dict[str, float] | None = None
        self.begin_decoding()

    def load_member(self, path: str) -> nn.Module:
        """Return one teacher, on the CPU.

        Raises:
            InputError: a bad checkpoint, or one that does not fit this task.
        """
        raise NotImplementedError

    def check_member(self, path: str, state: dict[str, Any]) -> None:
        """Check a checkpoint that is to run beside others of this task.

        Args:
            path: its path, for messages.
            state: its content.

        Raises:
            InputError: it does not fit the data.
        """
        raise NotImplementedError

    def sibling(self, predictive: str | None = None) -> Any:
        """Return a task of the same data that loads other models, as ``--predictive`` reads them.

        This one keeps what it knows of its own.
        """
        raise NotImplementedError

    @property
    def student(self) -> BaseFairseqModel | None:
        """The model in training; None where nothing is trained."""
        return self._student and self._student.model

    @property
    def in_training(self) -> bool:
        """Whether a model of this task is in training."""
        return self._student is not None

    @property
    def has_teachers(self) -> bool:
        """Whether teachers run beside it."""
        return self.teachers is not None

    # -- what travels in the checkpoint ----------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what fairseq saves as ``task_state``: the student's head, the layers' gates."""
        state: dict[str, Any] = {}
        if self.student_head:
            state["student_head"] = self.student_head.to_dict()
        if self._gates:
            state["layer_gates"] = self._gates
        if isinstance(self.teachers, MovingTeachers) and not self.cfg.no_save_optimizer_state:
            motion = self.teachers.motion.state_dict()
            state[STATE] = {"kind": str(self.cfg.moving_teacher), "motion": motion}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember head and gates of the model that fairseq builds next from the checkpoint."""
        saved = state_dict.get("student_head")
        self._head_of_next_model = StudentHead.from_dict(saved) if saved else None
        self._gates_of_next_model = state_dict.get("layer_gates")

    # -- training ---------------------------------------------------------------------------

    def with_head(self, model: BaseFairseqModel, from_checkpoint: bool) -> BaseFairseqModel:
        """Return a model with its head, if from a checkpoint; in training with its first weights.

        Args:
            model: as fairseq built it.
            from_checkpoint: whether it will get a checkpoint's weights.
        """
        head, self._head_of_next_model = self._head_of_next_model, None
        gates, self._gates_of_next_model = self._gates_of_next_model, None
        gate_layers(model, gates if from_checkpoint else self._gates)
        if from_checkpoint:
            attach_outputs(model, head)
            attach_head(model, with_predictive(head, self.cfg.predictive))
            if head is not None:
                self._measures = self._measures or head.measures
        else:
            self._student = StudentInTraining(model, self.cfg)
            if self.cfg.student_init:
                self._student.initialise(self.fit_weights)
        return model

    def with_teachers(self, criterion: FairseqCriterion) -> FairseqCriterion:
        """Return a criterion; if it distils, load the teachers and settle the student's head."""
        if not getattr(criterion, "needs_teachers", False):
            if self._student is not None:
                check_no_placement(self.cfg)
                check_options(self.cfg, distils=False)
                check_gates(self._gates, criterion)
                self._student.give_outputs(None)
            return criterion
        check_gates(self._gates, criterion)
        check_options(self.cfg, distils=True)
        self.student_head = criterion.student_head(
            predictive=self.cfg.predictive or "base",
            measures=self._measures,
        )
        if self._student is not None:
            # Before teachers are built, which draws numbers, and not in all processes as many.
            self._student.give_outputs(self.student_head)
            attach_head(self._student.model, self.student_head)
        target_store = getattr(self.cfg, "target_store", None)
        if target_store:
            check_store_options(self.cfg)
            self.stores = criterion.target_stores(target_store)
        else:
            self.teachers = self._teachers(criterion)
        if self._student is not None:
            criterion.meet(self._student.model, self.teachers)
        return criterion

    def _teachers(self, criterion: Any) -> Teachers | None:
        least = criterion.least_members
        if self._student is None:
            # Validation of a checkpoint: what moved beside its training has gone.
            is_moving = str(self.cfg.moving_teacher) != "none"
            return None if is_moving else place_teachers(self.cfg, self.load_member, False, least)
        moving = moving_teachers(self.cfg, self.load_member, self._student.model, least)
        if moving is None:
            return place_teachers(self.cfg, self.load_member, True, least)
        go_on(moving, self.cfg)
        return moving

    def freeze_parts(self) -> None:
        """Leave the parts of ``--freeze`` and ``--train-only`` out of a training.

        To be called when the student is whole, before the optimizer is made of its parameters.
        """
        if self._student is not None:
            freeze_parts(self._student.model, self.cfg)

    def stored_targets(
        self, sample: dict[str, Any], token_mask: Tensor, training: bool
    ) -> SparseTarget | None:
        """Return the stored targets of a batch's counted tokens; None if there are none."""
        if self.stores is None:
            return None
        stored = self.stores.of(self.cfg.train_subset if training else self.validated_subset)
        return None if stored is None else stored.targets(sample, token_mask)

    def train_step(  # noqa: D102 (fairseq's own)
        self,
        sample: Any,
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> Any:
        if hasattr(criterion, "set_num_updates"):
            criterion.set_num_updates(update_num)
        if isinstance(self.teachers, MovingTeachers) and not ignore_grad:
            token_mask = sample["target"].ne(criterion.padding_idx)
            self.teachers.motion.learn(teacher_input(sample), sample["target"], token_mask)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Update the student, and let teachers that move follow."""
        super().optimizer_step(optimizer, model, update_num)
        if isinstance(self.teachers, MovingTeachers):
            self.teachers.motion.step()

    def fit_weights(self, weights: dict[str, Any], model: BaseFairseqModel) -> dict[str, Any]:
        """Return the weights of ``--student-init`` without what need not fit the student."""
        return weights


def sibling_options(cfg: Any, predictive: str | None) -> Any:
    """Return a task's options with another ``--predictive``."""
    options = copy.copy(cfg)
    options.predictive = predictive
    return options
