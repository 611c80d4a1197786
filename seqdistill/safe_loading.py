"""Checkpoints of fairseq under torch's safe loading: what they may hold, and what is wrong."""

import argparse
import errno
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqdistill.errors import InputError


def fairseq_globals() -> list[Any]:
    """Return the globals that checkpoints of stock fairseq hold; nothing that can run code.

    ``argparse.Namespace`` is the configuration of older checkpoints; numpy scalars and arrays are
    validation scores and meters.
    """
    dtypes = [getattr(np.dtypes, f"{name}DType") for name in ("Float32", "Float64", "Int64")]
    array = np.zeros(1)
    # numpy's _reconstruct and scalar, wherever this numpy keeps them.
    rebuild: list[Any] = [array.__reduce__()[0], array[0].__reduce__()[0]]
    return [argparse.Namespace, np.dtype, np.ndarray, *dtypes, *rebuild]


def load_mapped(path: str | Path) -> Any:
    """Load a file of torch under safe loading, with fairseq's globals allowed, on the CPU.

    Weights are mapped: they are read when they are looked at.
    """
    # The context forgets what it was given, also what had been allowed before.
    allowed = torch.serialization.get_safe_globals()
    added = [one for one in fairseq_globals() if one not in allowed]
    with torch.serialization.safe_globals(added):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def explain(error: Exception, path: str | Path) -> Exception:
    """Turn what torch raises on a bad checkpoint into an :class:`InputError`, others unchanged."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        forbidden = re.search(r"GLOBAL ([\w.]+)", text)
        if forbidden:
            return InputError(
                f"{path}: holds the global {forbidden[1]}, which is not on the allow-list, so it "
                "was not unpickled. If you trust the file, re-save its weights and configuration "
                "alone."
            )
        return InputError(f"{path}: not a checkpoint, or damaged ({text.splitlines()[0]})")
    # A zip archive cut short makes torch seek before the file's beginning: EINVAL.
    bad_seek = isinstance(error, OSError) and error.errno == errno.EINVAL
    damaged = isinstance(error, EOFError | zipfile.BadZipFile) or bad_seek
    damaged = damaged or (
        isinstance(error, RuntimeError)
        and ("PytorchStreamReader" in text or "zip archive" in text or "unexpected EOF" in text)
    )
    if isinstance(error, RuntimeError) and "mmap can only be used" in text:
        return InputError(f"{path}: not a checkpoint, or one of torch before 1.6; save it again")
    if damaged:
        return InputError(f"{path}: truncated or damaged; copy or train it again")
    return error
