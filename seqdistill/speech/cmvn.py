"""Mean and standard deviation of each band over a training set, gathered without cancellation.

E[x²] − E[x]² loses all digits where the mean is large beside the deviation. Here every utterance
gives its mean and its sum of squares around it, and two such are merged exactly.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqdistill.speech.audio import Array

Array64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Moments:
    """Sums over frames.

    Attributes:
        count: frames.
        mean: (bins,) float64.
        squares: (bins,) float64, Σ (x − mean)².
    """

    count: int
    mean: Array64
    squares: Array64

    @classmethod
    def of(cls, features: Array) -> "Moments":
        """Return the moments of an utterance's features (frames, bins)."""
        wide = features.astype(np.float64)
        mean: Array64 = wide.mean(axis=0)
        return cls(len(wide), mean, np.square(wide - mean).sum(axis=0))

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both together.

        Source: Chan, Golub, LeVeque, Algorithms for computing the sample variance, 1983, eq. 2.1.
        """
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        difference = other.mean - self.mean
        share = other.count / count
        return Moments(
            count,
            self.mean + difference * share,
            self.squares + other.squares + np.square(difference) * (self.count * share),
        )

    def statistics(self) -> tuple[Array, Array]:
        """Return mean and standard deviation (of a population), float32.

        A band that never varies is divided by 1: it becomes 0 everywhere, and not 0/0.
        """
        deviation = np.sqrt(self.squares / self.count)
        deviation[self.squares == 0] = 1
        return self.mean.astype(np.float32), deviation.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON keeps, to the last bit."""
        return {
            "count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Moments":
        """Read back :meth:`to_dict`."""
        mean, squares = (np.array(record[key], np.float64) for key in ("mean", "squares"))
        return cls(record["count"], mean, squares)


def merge_all(parts: Iterable[Moments], bins: int) -> Moments:
    """Merge the moments of parts, one after another."""
    total = Moments(0, np.zeros(bins), np.zeros(bins))
    for part in parts:
        total = total.merge(part)
    return total
