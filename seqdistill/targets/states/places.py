"""Which positions of a sentence are kept."""

from collections.abc import Sequence

import numpy as np

from seqdistill.targets.store.files import Array

#: How positions are chosen where not all are kept.
CHOICES = ("rare", "even")


def choose_places(ids: Array, count: int | None, choice: str, frequencies: Array) -> Array:
    """Return the positions of a sentence that are kept, ascending.

    Args:
        ids: (T) its pieces.
        count: how many; None keeps all.
        choice: ``rare``, the pieces that the corpus has least often (of equals the first), or
            ``even``, evenly spread with the first and the last among them.
        frequencies: (V) of the pieces in the corpus.

    Example:
        >>> choose_places(np.array([7, 3, 3, 5]), 2, "even", np.zeros(8)).tolist()
        [0, 3]
    """
    T = len(ids)
    if count is None or count >= T:
        return np.arange(T)
    if choice == "even":
        at: Sequence[int] = np.linspace(0, T - 1, count).round().astype(int).tolist()
        return np.asarray(at)
    order = np.argsort(frequencies[ids], kind="stable")
    return np.sort(order[:count])
