"""The student of a training: its first weights, and its outputs beside the logits."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fairseq.models import BaseFairseqModel

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.heads import described
from fairseq_plugins.outputs import attach_outputs, split_weights, student_outputs
from fairseq_plugins.teachers import find_members
from seqdistill.errors import InputError
from seqdistill.student import StudentHead

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialOutputs:
    """What ``--student-init`` brings beside the weights of an ordinary model.

    Attributes:
        path: the checkpoint.
        head: as it says.
        weights: of the outputs, by their names in the checkpoint.
    """

    path: str
    head: StudentHead
    weights: dict[str, Any]


class StudentInTraining:
    """The model that a task trains, on its way from fairseq's fresh one to the whole student.

    Args:
        model: as fairseq built it.
        cfg: options of the task.
    """

    def __init__(self, model: BaseFairseqModel, cfg: Any) -> None:
        self.model = model
        self._cfg = cfg
        self._initial: InitialOutputs | None = None

    def initialise(self, fit_weights: Callable[..., dict[str, Any]]) -> None:
        """Give the student the weights of ``--student-init``.

        Args:
            fit_weights: weights, model → the weights without what need not fit the student.

        Raises:
            InputError: there is no such member, or its weights do not fit.
        """
        model, student_init = self.model, self._cfg.student_init
        path = student_init
        if student_init.isdecimal():
            members = find_members(self._cfg.ensemble_paths, least=1)
            if not 1 <= int(student_init) <= len(members):
                raise InputError(
                    f"--student-init {student_init}: expected a path or a member from 1 to "
                    f"{len(members)}"
                )
            path = members[int(student_init) - 1]
        state = load_checkpoint(path)
        model.upgrade_state_dict(state["model"])
        weights, outputs = split_weights(state["model"])
        if outputs:
            saved = (state.get("task_state") or {}).get("student_head") or {}
            self._initial = InitialOutputs(path, StudentHead.from_dict(saved), outputs)
        weights = fit_weights(weights, model)
        try:
            model.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"--student-init {path}: its weights do not fit the student's architecture; use "
                f"the same --arch and sizes, or leave --student-init away ({error})"
            ) from error
        logger.info(f"student initialised from {path}")

    def give_outputs(self, head: StudentHead | None) -> None:
        """Give the student of a training its outputs, those of ``--student-init`` if it had some.

        Raises:
            InputError: that was a student of another kind, or with other settings.
        """
        model, initial, self._initial = self.model, self._initial, None
        attach_outputs(model, head)
        if initial is None:
            return
        outputs = student_outputs(model)
        if head is None or (head.kind, head.settings) != (initial.head.kind, initial.head.settings):
            wanted = "an ordinary model" if head is None else described(head)
            raise InputError(
                f"--student-init {initial.path}: it is {described(initial.head)}, and this "
                f"criterion trains {wanted}; start from a student of the same kind and settings, "
                "or from an ordinary model"
            )
        assert outputs is not None  # such a head has outputs: the checkpoint had their weights
        names = {name.rpartition("student_outputs.")[2]: name for name in initial.weights}
        outputs.load_state_dict({name: initial.weights[key] for name, key in names.items()})
