"""Hydra: one body and a light head for each member of the ensemble (Tran et al. 2020).

A head of its own projection would cost V × D parameters a member: at V = 40,000 and D = 512 five of
them are 102 million. Here head m is a small residual map of the decoder's features before the
projection that all share (and that may be tied to the embeddings),

    h_m(x) = x + U_m relu(D_m x + b_m),   logits z_m = W h_m(x) + c

which costs 2 D r + r a head: 0.07 million at D = 512, r = 64.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqdistill.errors import InputError
from seqdistill.student.outputs import StudentOutputs

#: Width of a head's inner layer.
DEFAULT_RANK = 64


class HydraOutputs(StudentOutputs):
    """M heads on the decoder's features.

    U_m begins at 0: every head then predicts what the body does, a teacher's predictions where the
    student began with a teacher's weights. D_m differ, so the heads can part at once.

    Args:
        D: width of the features.
        members: M ≥ 2.
        rank: r, width of a head's inner layer.

    Example:
        >>> heads = HydraOutputs(D=4, members=3, rank=2)
        >>> x = torch.ones(5, 4)
        >>> heads(x).shape, bool((heads(x) == x).all())
        (torch.Size([3, 5, 4]), True)
    """

    def __init__(self, D: int, members: int, rank: int = DEFAULT_RANK) -> None:
        super().__init__(f"hydra with {members} heads of rank {rank}")
        self.down = nn.Parameter(torch.randn(members, rank, D) / math.sqrt(D))
        self.down_bias = nn.Parameter(torch.zeros(members, 1, rank))
        self.up = nn.Parameter(torch.zeros(members, D, rank))

    def forward(self, features: Tensor) -> Tensor:
        """Return (M, N, D) every head's features of (N, D)."""
        x = features.unsqueeze(0)
        inner = torch.relu(torch.matmul(x, self.down.transpose(1, 2)) + self.down_bias)
        return x + torch.matmul(inner, self.up.transpose(1, 2))


class HydraKind:
    """The kind ``hydra``; its settings are ``members`` and ``rank``."""

    predictives: tuple[str, ...] = ("base",)

    def check(self, offset: float | None, settings: Mapping[str, Any]) -> None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        if offset is not None:
            raise InputError(f"a Hydra student has no offset, got {offset!r}")
        expected = {"members", "rank"}
        if settings.keys() != expected:
            raise InputError(
                "a Hydra student's head says how many members and which rank; expected settings "
                f"{', '.join(sorted(expected))}, got {', '.join(sorted(settings)) or 'none'}"
            )
        members, rank = settings["members"], settings["rank"]
        if not isinstance(members, int) or members < 2:
            raise InputError(
                f"a Hydra student has a head for each of at least 2 members, got {members!r}"
            )
        if not isinstance(rank, int) or rank < 1:
            raise InputError(f"expected a rank of the heads of 1 or more, got {rank!r}")

    def outputs(self, settings: Mapping[str, Any], D: int, V: int) -> StudentOutputs | None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        return HydraOutputs(D, settings["members"], settings["rank"])
