"""Students with more outputs than logits: their module on fairseq's decoder, and what it gives."""

from typing import Any

from torch import Tensor

from fairseq_plugins.features import gives_features
from seqdistill.errors import InputError
from seqdistill.student import StudentHead, StudentOutputs
from seqdistill.teachers.cheap.layers import has_gates
from seqdistill.uncertainty.heads import Projection, head_rows
from seqdistill.uncertainty.outputs import MemberRows

#: Where a checkpoint has their weights.
WEIGHTS = "decoder.student_outputs."


def attach_outputs(model: Any, head: StudentHead | None) -> None:
    """Give a model the outputs that its head says it has, as ``model.decoder.student_outputs``.

    Raises:
        InputError: the head has outputs, and the model's decoder does not give its features.
    """
    if head is None:
        return
    if not gives_features(model):
        if head.outputs(1, 2) is not None:
            raise InputError(
                f"a {type(model).__name__} does not give its features, and a student of kind "
                f"{head.kind} needs a transformer with an ordinary output projection"
            )
        return
    projection = model.decoder.output_projection
    outputs = head.outputs(projection.in_features, projection.out_features)
    if outputs is not None:
        weight = projection.weight
        model.decoder.student_outputs = outputs.to(device=weight.device, dtype=weight.dtype)


def student_outputs(model: Any) -> StudentOutputs | None:
    """Return a model's outputs beside its logits, if it has some."""
    outputs: StudentOutputs | None
    outputs = getattr(getattr(model, "decoder", None), "student_outputs", None)
    return outputs


def rows_of_student(model: Any, features: Tensor) -> list[MemberRows]:
    """Return what the estimator reads of a student with more outputs.

    Args:
        model: with its head and outputs.
        features: (R, D) of its decoder.
    """
    projection = model.decoder.output_projection
    outputs = model.decoder.student_outputs(features)
    return head_rows(
        model.student_head, features, outputs, Projection(projection.weight, projection.bias)
    )


def split_weights(weights: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a checkpoint's weights into those of an ordinary model and those of the outputs."""
    outputs = {name: value for name, value in weights.items() if name.startswith(WEIGHTS)}
    return {name: value for name, value in weights.items() if name not in outputs}, outputs


def refuse_outputs(path: str, state: dict[str, Any]) -> None:
    """Raise an :class:`InputError` if a checkpoint is no ordinary model.

    That is a student with more outputs than logits, or a model whose layers have gates.

    Args:
        path: the checkpoint's, for the message.
        state: its content.
    """
    if split_weights(state["model"])[1]:
        saved = (state.get("task_state") or {}).get("student_head") or {}
        raise InputError(
            f"{path}: a student of kind {saved.get('kind', 'unknown')}, which has more outputs "
            "than one row of logits; teachers are ordinary models, so give its teachers instead"
        )
    if has_gates(state["model"]):
        raise InputError(
            f"{path}: its layers have gates; make its members ordinary models first: seqdistill "
            f"members layers {path} --output FOLDER"
        )
