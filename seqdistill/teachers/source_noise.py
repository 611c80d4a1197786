"""Noise on source sentences: what a student and its teachers read alike.

Consistent teaching gives teacher and student the same augmented input, in every epoch another one,
and trains for long (Beyer and others, "Knowledge Distillation: A Good Teacher Is Patient and
Consistent", CVPR 2022). Of images the augmentation is crops and mixtures; of text here, pieces are
left out and replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqdistill.errors import InputError


@dataclass(frozen=True)
class SourceNoise:
    """Leaves pieces out and replaces others, the same whenever a sentence of an epoch is read.

    Attributes:
        drop: chance in [0, 1) that a piece is left out; one piece stays at least.
        replace: chance in [0, 1) that a piece which stays becomes another.
        seed: of the noise.
        replacements: pieces that may stand in for another.
        frequencies: how often each of them is drawn, in any unit, above 0 in all.
        fixed: what is neither left out nor replaced: begin, end and padding.
    """

    drop: float
    replace: float
    seed: int
    replacements: Sequence[int]
    frequencies: Sequence[float]
    fixed: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("drop", "replace"):
            share = getattr(self, name)
            if not 0.0 <= share < 1.0:
                raise InputError(
                    f"the chance to {name} a piece must be in [0, 1), got {share}; 0 leaves "
                    "sources as they are"
                )
        weights = np.asarray(self.frequencies, dtype=np.float64)
        if self.seed < 0:
            raise InputError(f"the seed of the noise must be 0 or more, got {self.seed}")
        if len(weights) != len(self.replacements) or not (weights >= 0).all() or not weights.sum():
            raise InputError(
                f"expected a frequency of 0 or more for each of {len(self.replacements)} pieces, "
                "and one above 0"
            )
        object.__setattr__(self, "_upto", np.cumsum(weights) / weights.sum())

    def __call__(self, tokens: Tensor, epoch: int, index: int) -> Tensor:
        """Return what is left of a sentence; the tensor that was given stays as it is.

        Args:
            tokens: (L) pieces of a sentence.
            epoch: of the training.
            index: of the sentence in its set.

        Example:
            >>> noise = SourceNoise(0.5, 0.0, 1, [4, 5], [1, 1], fixed=(2,))
            >>> noise(torch.tensor([5, 6, 7, 8, 2]), epoch=1, index=0)[-1]
            tensor(2)
        """
        stream = np.random.default_rng([self.seed, epoch, index])
        given = tokens.numpy()
        # All is drawn, whatever the chances are: one of them does not change the other's choice.
        dropped, replaced, which = stream.random((3, len(given)))
        spare = int(stream.integers(0, 1 << 62))
        is_free = ~np.isin(given, self.fixed)
        keep = ~is_free | (dropped >= self.drop)
        free = np.flatnonzero(is_free)
        if len(free) and not keep[free].any():
            keep[free[spare % len(free)]] = True
        upto: np.ndarray = self._upto  # type: ignore[attr-defined]
        # The sum ends at 1 up to rounding, and what is drawn stays below 1.
        drawn = np.minimum(np.searchsorted(upto, which, side="right"), len(upto) - 1)
        others = np.asarray(self.replacements, dtype=given.dtype)[drawn]
        changed = np.where(is_free & (replaced < self.replace), others, given)
        return torch.from_numpy(changed[keep])
