"""``python -m recipes.common.average FOLDER``: one model of a training's last checkpoints.

Its weights are the means of theirs, as in fairseq's ``average_checkpoints.py``. Of checkpoints of
DeepSpeed's engine, whose weights lie in shards beside them, each is put together first.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fairseq_plugins.checkpoints import allow_list_fairseq_globals, explain, points_to_shards
from seqdistill.errors import InputError
from seqdistill.files import atomic_write
from seqdistill.integrations.deepspeed.pointers import RECORD

Reader = Callable[[Path], dict[str, Any]]
"""From a checkpoint's path to its content."""

_SHARDS = "deepspeed"  # a folder beside the checkpoints of that engine
_NUMBERED = re.compile(r"checkpoint(\d+)\.pt")


def last_checkpoints(folder: Path, count: int) -> list[Path]:
    """Return the last so many checkpoints of epochs, oldest first, or as many as there are.

    Raises:
        InputError: there are none.
    """
    matches = ((_NUMBERED.fullmatch(path.name), path) for path in folder.iterdir())
    numbered = sorted((int(match[1]), path) for match, path in matches if match)
    if not numbered:
        raise InputError(
            f"{folder}: expected checkpoints of epochs (checkpoint3.pt), found none; train for an "
            "epoch at least, or set teachers.average=null"
        )
    return [path for _, path in numbered[-count:]]


def average(paths: Sequence[Path], read: Reader | None = None) -> dict[str, Any]:
    """Return the last checkpoint with mean weights, without its optimiser.

    w = Σ_k w_k / K, summed in float64. Whole numbers (counters) are the last checkpoint's.

    Args:
        paths: the checkpoints.
        read: reads one; None: as an ordinary one.

    Raises:
        InputError: one cannot be read, or they are of different models.
    """
    sums: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = {}
    for path in paths:
        state = (read or _read)(path)
        weights = state["model"]
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        if sums and shapes != {name: tensor.shape for name, tensor in sums.items()}:
            raise InputError(f"{path}: expected the weights of {paths[0]}, found those of another")
        for name, tensor in weights.items():
            if not tensor.is_floating_point():
                sums[name] = tensor
            elif name in sums:
                sums[name] += tensor
            else:
                sums[name] = tensor.double()
    kinds = {name: tensor.dtype for name, tensor in state["model"].items()}
    state["model"] = {
        name: (total / len(paths)).to(kinds[name]) if total.is_floating_point() else total
        for name, total in sums.items()
    }
    state.pop("last_optimizer_state", None)
    return state


def read_whole(path: Path) -> dict[str, Any]:
    """Read a checkpoint; one of DeepSpeed's engine is put together.

    Raises:
        InputError: it cannot be read, or its shards are not complete.
    """
    if (path.parent / _SHARDS).is_dir():
        from seqdistill.integrations.deepspeed.pointers import read_pointer
        from seqdistill.integrations.deepspeed.weights import consolidate

        if read_pointer(path) is not None:
            return consolidate(path)
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise explain(error, path) from error
    if isinstance(state, dict) and RECORD in state:
        raise points_to_shards(path)
    if not isinstance(state, dict) or "model" not in state:
        raise InputError(f"{path}: not a fairseq checkpoint (it has no 'model')")
    return state


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="average the last checkpoints of a training")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the training")
    parser.add_argument("--last", type=int, default=10, metavar="N", help="how many (default: 10)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    given = parser.parse_args(arguments)
    allow_list_fairseq_globals()
    try:
        paths = last_checkpoints(given.folder, given.last)
        state = average(paths, read_whole)
        with atomic_write(given.output, binary=True) as handle:
            torch.save(state, handle)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    asked = "" if len(paths) == given.last else f" ({given.last} were asked for)"
    print(f"{given.output}: {len(paths)} checkpoints{asked}, {paths[0].name} to {paths[-1].name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
