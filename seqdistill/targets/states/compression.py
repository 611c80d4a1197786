"""Hidden states in fewer numbers: the principal directions of a teacher's layer.

Of a state h (D) the store keeps x = (h − μ) Wᵀ / c, the coordinates in the w directions in which
states vary most (no other linear map to w numbers loses less of their variance), all divided by one
number c, so that the mean square of what is kept is 1, whatever the layer's scale.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqdistill.errors import InputError


@dataclass(frozen=True)
class Compression:
    """The map of one layer.

    Attributes:
        mean: (D) μ.
        directions: (w, D) W, orthonormal rows, the most important first.
        scale: c, above 0.
        explained: share of the states' variance that is kept, in (0, 1].
    """

    mean: Tensor
    directions: Tensor
    scale: float
    explained: float

    def encode(self, states: Tensor) -> Tensor:
        """Return (n, w) of states (n, D), float32."""
        centred = states.to(self.mean.dtype) - self.mean
        return centred @ self.directions.T / self.scale

    def decode(self, kept: Tensor) -> Tensor:
        """Return the (n, D) states that (n, w) stand for."""
        return kept.to(self.mean.dtype) * self.scale @ self.directions + self.mean

    def to_arrays(self) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]:
        """Return plain arrays, as they are stored."""
        numbers = np.asarray([self.scale, self.explained], np.float32)
        return {
            "mean": self.mean.numpy(),
            "directions": self.directions.numpy(),
            "numbers": numbers,
        }

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]
    ) -> "Compression":
        """Read back :meth:`to_arrays`."""
        scale, explained = arrays["numbers"].tolist()
        mean, directions = (
            torch.from_numpy(np.array(arrays[name])) for name in ("mean", "directions")
        )
        return cls(mean, directions, scale, explained)


class StateMoments:
    """Mean and covariance of states that are seen a batch at a time, in float64.

    Args:
        D: width of the states.
    """

    def __init__(self, D: int) -> None:
        self.count = 0
        self._mean = torch.zeros(D, dtype=torch.float64)
        self._scatter = torch.zeros(D, D, dtype=torch.float64)

    def add(self, states: Tensor) -> None:
        """Add states (n, D)."""
        n = states.shape[0]
        if not n:
            return
        states = states.detach().cpu().double()
        if not bool(torch.isfinite(states).all()):
            raise InputError("a teacher gave hidden states that are not finite")
        mean = states.mean(dim=0)
        centred = states - mean
        gap = mean - self._mean
        total = self.count + n
        # Chan, Golub & LeVeque 1979: sums of squares about means are joined without cancellation.
        self._scatter += centred.T @ centred
        self._scatter += torch.outer(gap, gap) * (self.count * n / total)
        self._mean += gap * (n / total)
        self.count = total

    def compression(self, width: int) -> Compression:
        """Return the map to ``width`` numbers.

        Raises:
            InputError: the width is not in [1, D], too few states were seen, or they are constant.
        """
        D = len(self._mean)
        if not 1 <= width <= D:
            raise InputError(f"expected a width from 1 to the states' own, {D}, got {width}")
        if self.count <= width:
            raise InputError(
                f"{self.count} states do not show {width} directions; give more sentences, or a "
                "smaller --width"
            )
        values, vectors = torch.linalg.eigh(self._scatter / self.count)  # ascending
        values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
        kept, total = float(values[:width].sum()), float(values.sum())
        if not kept > 0:
            raise InputError("a layer's states are the same everywhere; there is nothing to keep")
        directions = vectors[:, :width].T
        # The sign of a direction is arbitrary; this one does not depend on the machine.
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
        directions = directions * largest.sign()
        return Compression(
            self._mean.float(),
            directions.float().contiguous(),
            (kept / width) ** 0.5,
            kept / total,
        )
