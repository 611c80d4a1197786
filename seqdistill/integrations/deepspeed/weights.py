"""The weights of shards, put together again: float32 master weights where there are any."""

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.integrations.deepspeed.pointers import Shards, read_pointer

#: What ``seqdistill consolidate --dtype`` offers.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def consolidate(path: str | Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return an ordinary fairseq checkpoint, without the optimiser's state, of a pointer's shards.

    Args:
        path: of the pointer.
        dtype: of the weights and of buffers that are not whole numbers.

    Raises:
        InputError: it is no pointer, or its shards are not complete.
    """
    found = read_pointer(path)
    if found is None:
        raise InputError(
            f"{path}: this is an ordinary checkpoint (its weights are in it, or it is another kind "
            "of file); only what was trained with --deepspeed is consolidated"
        )
    state, shards = found
    weights = load_weights(shards.check(path), shards)
    state["model"] = {}
    copies: dict[tuple[int, torch.Size], Tensor] = {}
    for name, weight in weights.items():
        # Not parts of one vector, as the shards have them; tied weights stay one.
        key = (weight.data_ptr(), weight.shape)
        if key not in copies or not weight.numel():
            copies[key] = weight.to(
                dtype if weight.is_floating_point() else weight.dtype, copy=True
            )
        state["model"][name] = copies[key]
    return {"args": None} | state


def load_weights(folder: Path, shards: Shards) -> dict[str, Tensor]:
    """Return name → weight or buffer on the CPU; those that were trained in float32.

    Args:
        folder: complete shards.
        shards: their record.

    Raises:
        InputError: DeepSpeed, which reads its shards, is not installed; or weights are missing.
    """
    try:
        import deepspeed  # noqa: F401  (its classes are in the files)
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise InputError(
            f'reading shards needs DeepSpeed: pip install "seqdistill[deepspeed]" ({error})'
        ) from error
    first = "mp_rank_00_model_states.pt"
    if shards.stage == 3:
        first = "zero_pp_rank_0_" + first
    saved = torch.load(folder / first, map_location="cpu", weights_only=False)
    weights: dict[str, Tensor] = dict(saved["module"])
    if shards.stage:
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            # Of ZeRO 3 the whole weights, of 1 and 2 the float32 ones over those just read.
            weights |= get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), folder.name)
    else:
        masters = _masters(saved["optimizer"], shards)
        aliases = {weight.data_ptr(): name for name, weight in weights.items() if name in masters}
        # Tied weights have one master and several names.
        weights = {
            name: masters.get(name, masters.get(aliases.get(weight.data_ptr(), ""), weight))
            for name, weight in weights.items()
        }
    bad = [
        name for name, shape in shards.shapes.items() if list(weights[name].shape) != list(shape)
    ]
    if bad:
        raise InputError(f"{folder}: the shards do not have all of {', '.join(bad)}")
    return weights


def _masters(optimizer: dict[str, Any], shards: Shards) -> dict[str, Tensor]:
    """Return the float32 weights that the engine keeps without ZeRO beside float16 or bfloat16."""
    if "fp32_groups" in optimizer:
        groups = optimizer["fp32_groups"]
    elif "fp32_groups_flat" in optimizer:
        groups = [
            flat.split([torch.Size(shards.shapes[name]).numel() for name in names])
            for flat, names in zip(optimizer["fp32_groups_flat"], shards.order, strict=True)
        ]
    else:
        return {}
    return {
        name: weight.detach().view(shards.shapes[name])
        for names, weights in zip(shards.order, groups, strict=True)
        for name, weight in zip(names, weights, strict=True)
    }
