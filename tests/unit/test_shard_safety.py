"""Shards are looked through before DeepSpeed unpickles them."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum

from seqdistill.errors import InputError
from seqdistill.integrations.deepspeed.pointers import Shards
from seqdistill.integrations.deepspeed.safety import refuse_unknown_globals


class _Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def _scaler() -> DynamicLossScaler:
    return DynamicLossScaler(16.0, 2.0, 1000, 1.0, 1)


def _shards(folder: str, files: dict[str, int]) -> Shards:
    return Shards(folder, 2, 1, "float32", 1, "Adam", files, {}, [], "0.19.8", "0.1.0")


def test_what_the_engine_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "optim_states.pt"
    state = {"a": torch.ones(3), "scaler": _scaler(), "stage": ZeroStageEnum.gradients}
    torch.save(state, path)
    refuse_unknown_globals([path])


def test_a_hostile_shard_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "deepspeed" / "update1"
    folder.mkdir(parents=True)
    made = tmp_path / "made"
    path = folder / "mp_rank_00_model_states.pt"
    torch.save({"a": torch.ones(3)}, path)
    shards = _shards("deepspeed/update1", {path.name: path.stat().st_size})
    assert shards.check(tmp_path / "last.pt") == folder
    # Not one of the files that the pointer names: the engine might read it all the same.
    torch.save({"a": _Hostile(made)}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(InputError, match=r"optim_states\.pt: holds the global \w+\.mkdir, which"):
        shards.check(tmp_path / "last.pt")
    assert not made.exists()


def test_a_file_that_is_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "mp_rank_00_model_states.pt"
    path.write_bytes(b"not a zip archive")
    with pytest.raises(InputError, match="not a shard, or damaged"):
        refuse_unknown_globals([path])
