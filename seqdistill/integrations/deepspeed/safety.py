"""What shards may hold: DeepSpeed reads them with pickle, so they are looked through before."""

from collections.abc import Iterable
from pathlib import Path

import torch

from seqdistill.errors import InputError

#: The globals of DeepSpeed that its engine saves, all stages and precisions; none can run code.
KNOWN = frozenset(
    {
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    }
)


def refuse_unknown_globals(files: Iterable[Path]) -> None:
    """Refuse files of torch whose pickles name anything but tensors and :data:`KNOWN`.

    Nothing of them is executed, and no weight is read.

    Args:
        files: shards, or parts of a universal checkpoint.

    Raises:
        InputError: such a file, or one that is not torch's.
    """
    for path in files:
        try:
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as error:
            raise InputError(
                f"{path}: not a shard, or damaged ({str(error).splitlines()[0]}); copy it again, "
                "or go on from another checkpoint"
            ) from error
        unknown = sorted(set(found) - KNOWN)
        if unknown:
            raise InputError(
                f"{path}: holds the global {unknown[0]}, which is not on the allow-list, so it was "
                "not read. DeepSpeed's engine writes no such shard"
            )
