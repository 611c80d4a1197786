"""A model's head: how its logits are read, and what fairseq may ask the model for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fairseq.models import BaseFairseqModel

from fairseq_plugins.outputs import student_outputs
from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.student.kinds import KINDS


def attach_head(model: BaseFairseqModel, head: StudentHead | None) -> None:
    """Give a model its head; what asks the model for log-probabilities then gets the predictive's.

    That covers everything of fairseq that decodes or scores, whichever task runs it. A base
    predictive is the softmax that the model computes anyway.
    """
    model.student_head = head
    if head is not None and student_outputs(model) is not None:
        model.get_normalized_probs = _refuse(head)
        return
    if head is None or head.predictive == "base":
        return

    def get_normalized_probs(net_output: Any, log_probs: bool, sample: Any = None) -> Any:
        values = head.log_probs(net_output[0])
        return values if log_probs else values.exp()

    model.get_normalized_probs = get_normalized_probs


def with_predictive(head: StudentHead | None, chosen: Any) -> StudentHead | None:
    """Return a head that is read as ``--predictive`` says; None leaves it as it is.

    Raises:
        InputError: this kind of student has no such predictive.
    """
    if chosen is None:
        return head
    predictive = str(chosen)
    if head is None or predictive not in KINDS[head.kind].predictives:
        if predictive == "base":
            return head
        raise InputError(
            "--predictive mean needs a Dirichlet student, or one of a distribution over "
            "logits; this checkpoint is "
            + ("an ordinary model" if head is None else f"one of kind {head.kind}")
        )
    return replace(head, predictive=predictive)


def described(head: StudentHead) -> str:
    """Return a head in words."""
    settings = ", ".join(f"{name} {value}" for name, value in sorted(head.settings.items()))
    return f"a student of kind {head.kind}" + (f" ({settings})" if settings else "")


def _refuse(head: StudentHead) -> Callable[..., Any]:
    def get_normalized_probs(net_output: Any, log_probs: bool, sample: Any = None) -> Any:
        raise InputError(
            f"a student of kind {head.kind} predicts with more than one row of logits, and "
            "fairseq's own search and criteria read one; decode with --task "
            "ensemble_teacher_translation (or ensemble_teacher_speech_to_text), and validate with "
            "the criterion it was trained with"
        )

    return get_normalized_probs
