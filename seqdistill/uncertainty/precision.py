"""Dirichlet students whose precision has an output of its own, as estimators read them."""

from collections.abc import Sequence

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.options import UncertaintyOptions
from seqdistill.uncertainty.outputs import ProjectedRows, wide
from seqdistill.uncertainty.reading import Estimator
from seqdistill.uncertainty.single import DirichletEstimator
from seqdistill.uncertainty.students import DirichletMixtureEstimator


class ShiftedRows(ProjectedRows):
    """Rows of logits that share a shift each.

    Args:
        features: (R, D).
        weight: (V, D) of the same dtype.
        bias: (V), or None.
        shift: (R, 1), added to every logit of a row.
    """

    def __init__(
        self, features: Tensor, weight: Tensor, bias: Tensor | None, shift: Tensor
    ) -> None:
        super().__init__(features, weight, bias)
        self.shift = wide(shift)

    def whole(self, rows: Tensor | None = None) -> Tensor:
        """See :class:`~seqdistill.uncertainty.outputs.MemberRows`."""
        return super().whole(rows).add_(self.shift if rows is None else self.shift[rows])

    def at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """See :class:`~seqdistill.uncertainty.outputs.MemberRows`."""
        return super().at(tokens, rows) + self.shift[rows, 0]


def dirichlet_estimator(
    heads: Sequence[StudentHead], options: UncertaintyOptions | None
) -> Estimator:
    """Return the estimator of one or several Dirichlet students.

    Raises:
        InputError: they are read in different ways.
    """
    head = heads[0]
    read_as = {(other.offset, other.predictive) for other in heads}
    if len(read_as) > 1:
        raise InputError(
            "the Dirichlet students are read in different ways, as (offset, predictive) of "
            f"{sorted(read_as)}; students that decode together must agree on both "
            "(--predictive sets the second for all)"
        )
    assert head.offset is not None  # StudentHead checked it
    if len(heads) > 1:
        return DirichletMixtureEstimator(len(heads), head.offset, head.predictive, options)
    return DirichletEstimator(head.offset, head.predictive, options)
