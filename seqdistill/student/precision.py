"""A Dirichlet student whose precision has an output of its own: a shift that all logits share.

α = e^(z + s) + o. An ordinary Dirichlet student says what is likely and how sure that is by the
same V logits: the precision is their level, which the features can only move along the one
direction that raises all logits alike, if the projection has it. Here a small layer on the
features gives that level, s; softmax(z + s) = softmax(z), so the base does not depend on it.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqdistill.errors import InputError
from seqdistill.student.outputs import StudentOutputs

DEFAULT_RANK = 64


class PrecisionOutputs(StudentOutputs):
    """The shift s of the logits, made of the features by a layer of r relus; 0 at the start.

    Args:
        D: width of the features.
        rank: r.

    Example:
        >>> outputs = PrecisionOutputs(D=4, rank=2)
        >>> outputs(torch.ones(3, 4)).tolist()
        [[0.0], [0.0], [0.0]]
    """

    def __init__(self, D: int, rank: int = DEFAULT_RANK) -> None:
        super().__init__(f"dirichlet_precision, rank {rank}")
        self.inner = nn.Linear(D, rank)
        self.last = nn.Linear(rank, 1)
        nn.init.normal_(self.inner.weight, std=1 / math.sqrt(D))
        nn.init.zeros_(self.inner.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return (..., 1) s of (..., D)."""
        shift: Tensor = self.last(torch.relu(self.inner(features)))
        return shift


class PrecisionKind:
    """The kind ``dirichlet_precision``; its setting is ``rank``."""

    predictives: tuple[str, ...] = ("base", "mean")

    def check(self, offset: float | None, settings: Mapping[str, Any]) -> None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        if offset not in (0, 1):
            raise InputError(f"a Dirichlet head has an offset of 1 or 0, got {offset!r}")
        if settings.keys() != {"rank"}:
            raise InputError(
                "a Dirichlet student with a precision of its own has the setting rank, got "
                f"{', '.join(sorted(settings)) or 'none'}"
            )
        if not isinstance(settings["rank"], int) or settings["rank"] < 1:
            raise InputError(f"expected a rank of 1 or more, got {settings['rank']!r}")

    def outputs(self, settings: Mapping[str, Any], D: int, V: int) -> StudentOutputs | None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        return PrecisionOutputs(D, settings["rank"])
