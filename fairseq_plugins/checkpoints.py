"""Load fairseq checkpoints safely, and say clearly what is wrong with a bad one."""

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


def allow_list_fairseq_globals() -> None:
    """Allow the globals that checkpoints of stock fairseq hold; nothing that can run code.

    ``argparse.Namespace`` is the configuration of older checkpoints; numpy scalars and arrays are
    validation scores and meters.
    """
    dtypes = [getattr(np.dtypes, f"{name}DType") for name in ("Float32", "Float64", "Int64")]
    array = np.zeros(1)
    # numpy's _reconstruct and scalar, wherever this numpy keeps them.
    rebuild: list[Any] = [array.__reduce__()[0], array[0].__reduce__()[0]]
    torch.serialization.add_safe_globals(
        [argparse.Namespace, np.dtype, np.ndarray, *dtypes, *rebuild]
    )


def load_checkpoint(path: str | Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a fairseq checkpoint to the CPU, with torch's safe loading.

    Args:
        path: the ``.pt`` file.
        overrides: settings to replace in the saved configuration.

    Returns:
        The checkpoint's dictionary, upgraded to the present format by fairseq.

    Raises:
        InputError: the file is missing, truncated, no checkpoint, or holds a forbidden global.
    """
    from fairseq import checkpoint_utils

    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint; give the path of a fairseq .pt file")
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path), overrides or {})
    except KeyError as error:
        raise InputError(f"{path}: not a fairseq checkpoint (it has no {error})") from error
    except Exception as error:
        raise explain(error, path) from error
    if not isinstance(state, dict) or "model" not in state:
        raise InputError(f"{path}: not a fairseq checkpoint (it has no 'model')")
    return state


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
    if damaged:
        return InputError(f"{path}: truncated or damaged; copy or train it again")
    return error
