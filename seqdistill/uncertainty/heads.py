"""Students with more outputs than logits: what their outputs are to an estimator, kind by kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.ensemble import EnsembleEstimator
from seqdistill.uncertainty.expectations import ExpectationRows, ExpectationsEstimator
from seqdistill.uncertainty.logit_space import (
    LOGIT_SPACE_KINDS,
    LogitSpaceRows,
    logit_space_estimator,
)
from seqdistill.uncertainty.options import UncertaintyOptions
from seqdistill.uncertainty.outputs import MemberRows, ProjectedRows
from seqdistill.uncertainty.precision import ShiftedRows, dirichlet_estimator
from seqdistill.uncertainty.reading import Estimator


@dataclass(frozen=True)
class Projection:
    """What makes logits of features; ``weight`` (V, D) and ``bias`` (V) or None."""

    weight: Tensor
    bias: Tensor | None = None


#: (head, features (R, D), outputs of them, projection) → what the estimator reads, a member each.
RowsOf = Callable[[StudentHead, Tensor, Tensor, Projection], list[MemberRows]]

#: (heads of the models that decode together, options) → their estimator.
EstimatorOf = Callable[[Sequence[StudentHead], UncertaintyOptions | None], Estimator]


@dataclass(frozen=True)
class HeadReader:
    """How students of one kind are read.

    Attributes:
        rows: what their outputs at R rows are to the estimator.
        estimator: of one or several such students.
    """

    rows: RowsOf
    estimator: EstimatorOf


def _hydra_rows(
    head: StudentHead, features: Tensor, outputs: Tensor, projection: Projection
) -> list[MemberRows]:
    return [ProjectedRows(own, projection.weight, projection.bias) for own in outputs]


def _hydra_estimator(
    heads: Sequence[StudentHead], options: UncertaintyOptions | None
) -> EnsembleEstimator:
    # The heads of several students are all members, each with the same weight.
    members = sum(int(head.settings["members"]) for head in heads)
    return EnsembleEstimator(members, options, kind="hydra")


def _logit_space_rows(
    head: StudentHead, features: Tensor, outputs: Tensor, projection: Projection
) -> list[MemberRows]:
    location = ProjectedRows(features, projection.weight, projection.bias)
    return [LogitSpaceRows(location, outputs)]


def _expectation_rows(
    head: StudentHead, features: Tensor, outputs: Tensor, projection: Projection
) -> list[MemberRows]:
    return [ExpectationRows(features, projection.weight, projection.bias, outputs)]


def _expectations_estimator(
    heads: Sequence[StudentHead], options: UncertaintyOptions | None
) -> ExpectationsEstimator:
    if len(heads) > 1:
        raise InputError(
            f"{len(heads)} students of expectations cannot decode together: what they disagree "
            "about is not in what each predicts; give one --path"
        )
    return ExpectationsEstimator(tuple(heads[0].settings["names"]), options)


def _precision_rows(
    head: StudentHead, features: Tensor, outputs: Tensor, projection: Projection
) -> list[MemberRows]:
    return [ShiftedRows(features, projection.weight, projection.bias, outputs)]


#: Every kind with outputs beside its logits, by its name in ``StudentHead.kind``.
READERS: dict[str, HeadReader] = {
    "hydra": HeadReader(_hydra_rows, _hydra_estimator),
    **{kind: HeadReader(_logit_space_rows, logit_space_estimator) for kind in LOGIT_SPACE_KINDS},
    "expectations": HeadReader(_expectation_rows, _expectations_estimator),
    "dirichlet_precision": HeadReader(_precision_rows, dirichlet_estimator),
}


def head_rows(
    head: StudentHead, features: Tensor, outputs: Tensor, projection: Projection
) -> list[MemberRows]:
    """Return what an estimator reads of a student with more outputs.

    Args:
        head: the student's.
        features: (R, D) of its decoder.
        outputs: what its :class:`~seqdistill.student.StudentOutputs` make of them.
        projection: of the features to logits.

    Example:
        >>> import torch
        >>> head = StudentHead("hydra", settings={"members": 2, "rank": 1})
        >>> rows = head_rows(head, torch.ones(3, 2), torch.ones(2, 3, 2), Projection(torch.eye(2)))
        >>> len(rows), rows[0].whole().shape
        (2, torch.Size([3, 2]))
    """
    return READERS[head.kind].rows(head, features, outputs, projection)


def outputs_estimator(
    heads: Sequence[StudentHead | None], options: UncertaintyOptions | None
) -> Estimator | None:
    """Return the estimator of students with more outputs; None where no model is one.

    Raises:
        InputError: such a student decodes beside models of another kind.
    """
    students = [head for head in heads if head is not None and head.kind in READERS]
    if not students:
        return None
    kinds = sorted({"an ordinary model" if head is None else head.kind for head in heads})
    if len(kinds) > 1:
        raise InputError(
            f"models of the kinds {', '.join(kinds)} cannot decode together; students with more "
            "outputs decode alone (give one --path), or with others of their kind"
        )
    return READERS[kinds[0]].estimator(students, options)
