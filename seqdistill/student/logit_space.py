"""Students with a distribution over the members' logits: a scale beside each logit, or a token.

The logits are the location; the further output is s = ln b, the logarithm of the scale: one a piece
of the vocabulary for a Laplace or a Gaussian (Fathullah, Xia & Gales 2023), one a token for a
Concrete distribution, whose temperature is λ = 1/b. The likelihood of members that agree has no
maximum in b, so b has a floor: s = ln b₀ + softplus(raw − ln b₀), which is raw wherever b ≫ b₀.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqdistill.errors import InputError
from seqdistill.losses.logit_space import COMPARABLE
from seqdistill.student.outputs import StudentOutputs

#: b₀: logits that differ by less are the same to any measure, and bfloat16 rounds them away.
LEAST_SCALE = 1e-3


class ScaleOutputs(StudentOutputs):
    """The logarithms of scales, linear in the decoder's features and floored.

    They begin at b = 1 for every token (1.001, by the floor); the prediction does not read them.

    Args:
        D: width of the features.
        width: how many scales a token has: V, or 1.
        rank: r > 0 puts a layer of r numbers between, r (D + V) weights instead of V D; 0: none.
        described: for messages.

    Example:
        >>> scales = ScaleOutputs(D=4, width=7, rank=0, described="laplace")
        >>> s = scales(torch.randn(3, 4))
        >>> s.shape, bool(s.abs().max() < 2e-3)
        (torch.Size([3, 7]), True)
    """

    def __init__(self, D: int, width: int, rank: int, described: str) -> None:
        super().__init__(described)
        self.inner = nn.Parameter(torch.randn(rank, D) / math.sqrt(D)) if rank else None
        self.weight = nn.Parameter(torch.zeros(width, rank or D))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """Return (..., width) ln b of (..., D) features, float32 at least."""
        if self.inner is not None:
            features = torch.nn.functional.linear(features, self.inner)
        raw = torch.nn.functional.linear(features, self.weight, self.bias)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        floor = math.log(LEAST_SCALE)
        # softplus is the identity beyond its threshold; at the default of 20 it is so to rounding.
        return floor + torch.nn.functional.softplus(raw - floor)


class LogitSpaceKind:
    """The kinds ``laplace`` and ``gaussian``; settings: ``comparable``, ``rank`` and ``samples``.

    Args:
        family: the kind's name.
    """

    predictives: tuple[str, ...] = ("base", "mean")

    def __init__(self, family: str) -> None:
        self.family = family

    def check(self, offset: float | None, settings: Mapping[str, Any]) -> None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        _check_settings(self.family, offset, settings, {"comparable", "rank", "samples"})
        if settings["comparable"] not in COMPARABLE:
            raise InputError(
                f"expected logits made comparable by {' or '.join(COMPARABLE)}, got "
                f"{settings['comparable']!r}"
            )
        rank = settings["rank"]
        if not isinstance(rank, int) or rank < 0:
            raise InputError(
                f"expected a rank of the scales of 0 (a projection of their own) or more, got "
                f"{rank!r}"
            )

    def outputs(self, settings: Mapping[str, Any], D: int, V: int) -> StudentOutputs | None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        return ScaleOutputs(D, V, settings["rank"], f"{self.family} of rank {settings['rank']}")


class ConcreteKind:
    """The kind ``concrete``; its setting is ``samples``."""

    predictives: tuple[str, ...] = ("base", "mean")

    def check(self, offset: float | None, settings: Mapping[str, Any]) -> None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        _check_settings("concrete", offset, settings, {"samples"})

    def outputs(self, settings: Mapping[str, Any], D: int, V: int) -> StudentOutputs | None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        return ScaleOutputs(D, 1, 0, "concrete")


def _check_settings(
    kind: str, offset: float | None, settings: Mapping[str, Any], expected: set[str]
) -> None:
    if offset is not None:
        raise InputError(f"a student of kind {kind} has no offset, got {offset!r}")
    if settings.keys() != expected:
        raise InputError(
            f"expected settings {', '.join(sorted(expected))} of a student of kind {kind}, got "
            f"{', '.join(sorted(settings)) or 'none'}"
        )
    samples = settings["samples"]
    if not isinstance(samples, int) or samples < 2:
        raise InputError(
            f"expected at least 2 samples of a student of kind {kind}, got {samples!r}; one has no "
            "disagreement to measure"
        )
