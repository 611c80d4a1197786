"""DeepSpeed's universal checkpoint: shards of any number of ranks for any other.

DeepSpeed's own converter makes it. What it makes of ZeRO 3 differs a little in form from what it
makes of ZeRO 1 and 2; :func:`convert` gives both one form that all three stages read.
"""

import argparse
import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from seqdistill.errors import InputError
from seqdistill.files import disk_errors
from seqdistill.integrations.deepspeed.folders import UNIVERSAL
from seqdistill.integrations.deepspeed.pointers import Shards
from seqdistill.integrations.deepspeed.safety import refuse_unknown_globals

#: What the universal form holds of each weight, besides the step: Adam's states.
STATES = ("fp32", "exp_avg", "exp_avg_sq")
_OF_STAGES_1_AND_2 = "mp_rank_00_model_states.pt"
_OF_STAGE_3 = "zero_pp_rank_0_mp_rank_00_model_states.pt"


def convert(folder: Path, shards: Shards) -> Path:
    """Return the universal form of complete shards; it is made once.

    Args:
        folder: of the shards.
        shards: their record.

    Returns:
        ``universal/TAG`` beside the folder.

    Raises:
        InputError: they are of stage 0, or of an optimiser that is not Adam, or the disk is full.
    """
    if not shards.stage:
        raise InputError(
            f"{folder}: DeepSpeed has no universal checkpoint of ZeRO 0 (shards of ZeRO 0 can be "
            "loaded by any number of ranks as they are)"
        )
    target = folder.parent / UNIVERSAL / folder.name
    if target.is_dir():
        refuse_unknown_globals(sorted(target.rglob("*.pt")))
        return target
    part = target.with_name(target.name + f".{os.getpid()}.part")
    for old in target.parent.glob("*.part"):
        shutil.rmtree(old)
    part.mkdir(parents=True)
    try:
        with disk_errors(part):
            _run_converter(folder, part)
            _give_one_form(part, shards)
            os.replace(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return target


def _run_converter(folder: Path, target: Path) -> None:
    from deepspeed.checkpoint.ds_to_universal import main

    settings = argparse.Namespace(
        input_folder=str(folder),
        output_folder=str(target),
        # In this process: forking one that has threads of collectives or a GPU is not safe.
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # What says which weights are split over tensor-parallel ranks: none are.
        inject_missing_state=True,
    )
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            main(settings)
    except KeyError as error:
        if error.args and error.args[0] in STATES:
            raise InputError(
                f"{folder}: the universal checkpoint is for Adam; the optimiser that wrote these "
                f"shards has no {error}. Resume with as many ranks and the same ZeRO stage"
            ) from error
        raise


def _give_one_form(folder: Path, shards: Shards) -> None:
    """Rewrite what the converter made so that ZeRO 1, 2 and 3 can read it."""
    weights = folder / "zero"
    common = torch.load(weights / "optimizer_state.pt", map_location="cpu", weights_only=False)
    groups = common["param_groups"]
    step: Any = None
    if shards.stage == 3:
        step = common["optimizer_state_dict"]["state"][0]["step"]
        for name in (name for group in shards.order for name in group):
            for state in STATES:
                path = weights / name / f"{state}.pt"
                flat = torch.load(path, map_location="cpu", weights_only=True)
                # cat_dim: of tensor-parallel slices, of which there is one.
                torch.save({"param": flat.view(shards.shapes[name]), "cat_dim": 0}, path)
            torch.save(step, weights / name / "step.pt")
        shutil.copy2(folder / _OF_STAGE_3, folder / _OF_STAGES_1_AND_2)
    else:
        step = torch.load(
            weights / shards.order[0][0] / "step.pt", map_location="cpu", weights_only=True
        )
        shutil.copy2(folder / _OF_STAGES_1_AND_2, folder / _OF_STAGE_3)
    # Of the rest, which is rank 0's, only what is the same on all ranks.
    kept = ("loss_scaler", "dynamic_loss_scale", "overflow", "clip_grad", "ds_version")
    whole = {"ds_version": shards.deepspeed, "clip_grad": 0.0}
    whole |= {key: common[key] for key in kept if key in common}
    whole["param_groups"] = groups
    whole["optimizer_state_dict"] = {"state": {0: {"step": step}}, "param_groups": groups}
    torch.save(whole, weights / "optimizer_state.pt")
