"""Load fairseq checkpoints safely, and say clearly what is wrong with a bad one."""

from pathlib import Path
from typing import Any

import torch

from seqdistill.errors import InputError
from seqdistill.safe_loading import explain, fairseq_globals

__all__ = ["allow_list_fairseq_globals", "explain", "load_checkpoint"]


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
    if not isinstance(state, dict) or "model" not in state:
        raise InputError(f"{path}: not a fairseq checkpoint (it has no 'model')")
    return state
