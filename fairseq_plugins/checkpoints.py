"""Load fairseq checkpoints safely, and say clearly what is wrong with a bad one."""

from pathlib import Path
from typing import Any

import torch

from seqdistill import safe_loading
from seqdistill.errors import InputError
from seqdistill.integrations.deepspeed.pointers import ADVICE, RECORD
from seqdistill.safe_loading import fairseq_globals


def allow_list_fairseq_globals() -> None:
    """Allow the globals that checkpoints of stock fairseq hold; nothing that can run code."""
    torch.serialization.add_safe_globals(fairseq_globals())


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
    if isinstance(state, dict) and RECORD in state:
        raise points_to_shards(path)
    if not isinstance(state, dict) or "model" not in state:
        raise InputError(f"{path}: not a fairseq checkpoint (it has no 'model')")
    return state


def points_to_shards(path: str | Path) -> InputError:
    """Return the error of a program that wants weights where a pointer is.

    Args:
        path: the pointer's, or the option that named it.
    """
    file = "FILE" if str(path).startswith("--") else path
    return InputError(
        f"{path}: the weights lie in the shards of DeepSpeed's engine; make an ordinary checkpoint "
        f"of them first: seqdistill consolidate {file} --output student.pt"
    )


def explain(error: Exception, path: str | Path) -> Exception:
    """Turn what a bad checkpoint raises into an :class:`InputError`, others unchanged."""
    if isinstance(error, RuntimeError) and ADVICE in str(error):
        return points_to_shards(path)  # fairseq finds no configuration and lists what it finds
    return safe_loading.explain(error, path)
