"""The checks that every assessment makes on its numbers before it computes anything."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seqdistill.errors import InputError

FloatArray = npt.NDArray[np.float64]


def finite_vector(name: str, values: Any) -> FloatArray:
    """Return ``values`` as a float64 vector, having looked at every number.

    Args:
        name: what the values are called in the error message.
        values: a sequence, array or tensor of one dimension with at least one finite number.

    Returns:
        The values, shape (n,), float64; a copy only where the type had to change.

    Raises:
        InputError: the vector has another shape, is empty, or holds NaN or infinity.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected a vector of numbers ({error})") from error
    if vector.ndim != 1:
        raise InputError(f"{name}: expected one dimension, got shape {vector.shape}")
    if vector.size == 0:
        raise InputError(f"{name}: expected at least one value, got none")
    bad = ~np.isfinite(vector)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"{name}: {int(bad.sum())} of {vector.size} values are not finite "
            f"(the first is {vector[first]} at index {first}); remove or repair them"
        )
    return vector


def same_length(**vectors: FloatArray) -> int:
    """Return the common length of named vectors.

    Raises:
        InputError: the lengths differ.
    """
    lengths = {name: len(vector) for name, vector in vectors.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise InputError(f"expected vectors of one length, got {listed}")
    return next(iter(lengths.values()))
