"""A teacher that is the moving average of its own student."""

import copy
from typing import Any

import torch
from torch import nn

from seqdistill.errors import InputError


class MovingAverage:
    r"""The exponential moving average of a model's weights: θ̄ ← d θ̄ + (1 - d) θ, in float32.

    Tied weights are averaged once. (An average over the names of a ``state_dict`` takes a weight
    that is tied three times d³ of the way, where the others go d.)

    Args:
        student: the model; the average begins as a frozen copy of it.
        decay: d, in [0, 1).

    Raises:
        InputError: a decay out of its range.

    Example:
        >>> student = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(student.weight)
        >>> average = MovingAverage(student, decay=0.75)
        >>> _ = nn.init.ones_(student.weight)
        >>> average.follow(student)
        >>> float(average.model.weight)
        0.25
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"expected a decay in [0, 1), got {decay}; 0 is the student itself")
        self.decay = decay
        self.model = copy.deepcopy(student).requires_grad_(False).float().eval()

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """Take a step towards the student; its buffers are taken over."""
        for own, new in zip(self.model.parameters(), student.parameters(), strict=True):
            own.lerp_(new.to(own), 1.0 - self.decay)
        for kept, now in zip(self.model.buffers(), student.buffers(), strict=True):
            kept.copy_(now)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.model.load_state_dict(state["model"])
