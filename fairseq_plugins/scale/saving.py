"""fairseq's saving with the engine's shards: rank 0 decides as ever, the others follow.

fairseq's ``save_checkpoint`` (names, intervals, retention) runs unchanged and on rank 0 alone, as
it does for an ordinary checkpoint; where it saves, every rank writes its shard. Two names that it
looks up are replaced: itself, so that the other ranks wait for what rank 0 decides, and the class
whose ``copy`` truncates the old file before it writes the new one.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from torch import distributed, nn

import seqdistill
from seqdistill.errors import InputError
from seqdistill.files import atomic_write
from seqdistill.integrations.deepspeed.folders import new_tag, remove_unnamed, shard_files
from seqdistill.integrations.deepspeed.pointers import SHARDS, Shards, write_pointer

logger = logging.getLogger(__name__)

#: fairseq's own, before it is replaced.
_save_checkpoint = checkpoint_utils.save_checkpoint


class WholeFiles(PathManager):
    """fairseq's functions for files, with copies that appear whole or not at all."""

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        """Copy a file."""
        with atomic_write(dst_path, overwrite=overwrite, binary=True) as handle:
            handle.write(Path(src_path).read_bytes())
        return True


def install(cfg: Any) -> None:
    """Make fairseq save the engine's checkpoints.

    Raises:
        InputError: options that would leave something out of them.
    """
    for option, given in (
        ("--store-ema", cfg.ema.store_ema),
        ("--write-checkpoints-asynchronously", cfg.checkpoint.write_checkpoints_asynchronously),
    ):
        if given:
            raise InputError(f"{option} cannot be used with --deepspeed")
    checkpoint_utils.save_checkpoint = save_checkpoint
    checkpoint_utils.PathManager = WholeFiles


def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: float | None) -> Any:
    """Save where fairseq would; called on all ranks, returns the path on rank 0.

    fairseq keeps the best score as an attribute of the function of this name, which is this one.
    """
    saver: Saver = trainer.saver
    if cfg.no_save:
        return _save_checkpoint(cfg, trainer, epoch_itr, val_loss)
    if not trainer.is_data_parallel_master:
        saver.follow()
        return None
    path = _save_checkpoint(cfg, trainer, epoch_itr, val_loss)
    saver.finish()
    for folder in remove_unnamed(Path(cfg.save_dir)):
        logger.info(f"removed the shards {folder}, which no checkpoint names any more")
    return path


class Saver:
    """Saves shards on all ranks and their pointer on rank 0.

    Args:
        trainer: on DeepSpeed's engine.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        # What the engine had done when it last saved, where, and what that was.
        self._last: tuple[tuple[int, int], Path, Shards] | None = None

    def save(self, filename: str, state: dict[str, Any]) -> str:
        """Save a checkpoint on rank 0, while the others :meth:`follow`.

        Args:
            filename: of the pointer.
            state: fairseq's, of which weights and optimizer are left away.
        """
        pointer = Path(filename).resolve()
        engine = self.trainer.engine
        done = (engine.global_steps, engine.skipped_steps)
        if self._last is not None and self._last[:2] == (done, pointer.parent):
            # At the end of an epoch, say, right after a save by updates: nothing has changed.
            shards = self._last[2]
        else:
            tag = new_tag(pointer.parent, self.trainer.get_num_updates())
            root = pointer.parent / SHARDS
            _agree_on(str(root / tag), self.trainer.device)
            self._save_shards(root / tag)
            shards = self._describe(root / tag)
            self._last = (done, pointer.parent, shards)
        kept = {k: v for k, v in state.items() if k not in ("model", "last_optimizer_state")}
        write_pointer(pointer, kept, shards)
        logger.info(f"Saved {pointer} with the shards {shards.folder} of {shards.ranks} ranks")
        return str(pointer)

    def follow(self) -> None:
        """Save this rank's shards as often as rank 0 says, until it has finished."""
        while folder := _agree_on(None, self.trainer.device):
            self._save_shards(Path(folder))

    def finish(self) -> None:
        """Let the other ranks go on."""
        _agree_on("", self.trainer.device)

    def _save_shards(self, folder: Path) -> None:
        self.trainer.engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)

    def _describe(self, folder: Path) -> Shards:
        import deepspeed

        engine = self.trainer.engine
        return Shards(
            folder=f"{SHARDS}/{folder.name}",
            stage=int(engine.zero_optimization_stage()),
            ranks=int(engine.dp_world_size),
            precision=precision(engine),
            updates=int(self.trainer.get_num_updates()),
            optimizer=type(engine.basic_optimizer).__name__,
            files=shard_files(folder),
            shapes=shapes(engine.module),
            order=[[name for name, p in engine.module.named_parameters() if p.requires_grad]],
            deepspeed=deepspeed.__version__,
            seqdistill=seqdistill.__version__,
        )


def precision(engine: Any) -> str:
    """Return the type of the engine's weights in the computation."""
    if engine.fp16_enabled():
        return "float16"
    return "bfloat16" if engine.bfloat16_enabled() else "float32"


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """Return the whole shapes of weights and buffers, also where ZeRO 3 has them in parts."""
    saved = module.state_dict(keep_vars=True)
    return {name: [*getattr(value, "ds_shape", value.shape)] for name, value in saved.items()}


def _agree_on(message: str | None, device: torch.device) -> str:
    """Return rank 0's message on all ranks."""
    box = [message]
    distributed.broadcast_object_list(box, src=0, device=device)
    return str(box[0])
