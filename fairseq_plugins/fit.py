"""Teachers that do not fit the device are refused before a training starts."""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf

from fairseq_plugins.teachers import find_members
from seqdistill.errors import InputError
from seqdistill.planning import MACHINES, Assumptions, Training, require_fit
from seqdistill.planning.checkpoints import checkpoint_size, size_of_settings
from seqdistill.planning.machines import GIB
from seqdistill.planning.plans import gib
from seqdistill.planning.sizes import count_parameters

logger = logging.getLogger(__name__)

#: GiB of a device that a training may take, instead of all a GPU has; 0 does not look.
LIMIT_VARIABLE = "SEQDISTILL_DEVICE_MEMORY"

# Of a sentence: how long they really are is known only when the data are read.
_LENGTH = 32
_FRAMES = 800


def check_fit(cfg: Any, zero: Mapping[str, Any] | None = None) -> None:
    """Refuse a training with teachers that need more memory than the device has.

    What is predicted errs to the low side: sentences are taken to be short and the allocator to
    waste nothing, so what is refused would have failed.

    Args:
        cfg: fairseq's configuration.
        zero: DeepSpeed's ``zero_optimization``; None without DeepSpeed.

    Raises:
        InputError: it does not fit; the message says what would.
    """
    limit = device_limit(os.environ, bool(cfg.common.cpu))
    task = cfg.task
    if limit is None or not getattr(task, "ensemble_paths", None) or _has_store(task):
        return
    training = training_of(cfg, dict(zero or {}))
    if training is None:
        logger.info("memory is not predicted: the student is no transformer that can be planned")
        return
    needed = require_fit(training, limit)
    logger.info(f"memory predicted: {gib(needed.total)} of {gib(limit)}, at its peak")


def device_limit(environment: Mapping[str, str], on_cpu: bool) -> float | None:
    """Return how many bytes a rank may take; None where nobody said and there is no GPU.

    Raises:
        InputError: the variable is no number.
    """
    given = environment.get(LIMIT_VARIABLE)
    if given is not None:
        try:
            number = float(given)
        except ValueError:
            number = math.nan
        if not number >= 0:
            raise InputError(f"{LIMIT_VARIABLE}: expected GiB, or 0 not to look, got {given!r}")
        return number * GIB or None
    if on_cpu or not torch.cuda.is_available():
        return None
    return float(torch.cuda.mem_get_info()[1])


def training_of(cfg: Any, zero: Mapping[str, Any]) -> Training | None:
    """Return the training that a configuration describes; None if its student cannot be planned."""
    model, task = cfg.model, cfg.task
    plain = OmegaConf.to_container(model) if OmegaConf.is_config(model) else model
    settings = dict(plain if isinstance(plain, Mapping) else vars(plain))
    student = size_of_settings(settings)
    if student is None:
        return None
    members = find_members(task.ensemble_paths, least=1)
    try:
        sizes = [checkpoint_size(member) for member in members]
    except InputError as error:
        # What loads the members says what is wrong with them, or takes them as they are.
        logger.info(f"memory is not predicted: {error}")
        return None
    # A plan has one size for all of them; the smallest errs to the low side, as the rest does.
    teacher, V = min(sizes, key=lambda found: count_parameters(*found).total)
    world = max(1, int(cfg.distributed_training.distributed_world_size))
    on_node = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or torch.cuda.device_count() or world
    gpus = on_node if world % on_node == 0 else world
    source = _FRAMES if student.is_speech else _LENGTH
    tokens, sentences = cfg.dataset.max_tokens, cfg.dataset.batch_size
    rows = [sentences] if sentences else []
    if tokens:
        rows.append(tokens // source)
    precision = "float32"
    if cfg.common.fp16 or cfg.common.bf16:
        precision = "float16" if cfg.common.fp16 else "bfloat16"
    on_cpu = bool(cfg.common.cpu)
    stage = int(zero.get("stage", 0))
    offloads = (zero.get("offload_optimizer") or {}).get("device", "none") != "none"
    group = getattr(task, "teacher_group_size", None)
    return Training(
        student=student,
        teacher=teacher,
        M=len(members),
        V=V,
        tokens=max(1, min(rows, default=1)) * _LENGTH,
        source_length=source,
        target_length=_LENGTH,
        machine=replace(MACHINES["cpu" if on_cpu else "a100-80"], has_bfloat16=True),
        gpus=gpus,
        nodes=world // gpus,
        precision=precision,
        # Of Hydra's configuration only what was given is known yet.
        teacher_precision=str(getattr(task, "ensemble_dtype", "float32")),
        stage=stage,
        offload_optimizer=offloads and stage > 0,
        checkpointing=bool(settings.get("checkpoint_activations")),
        placement=str(getattr(task, "teacher_placement", None) or "replicate"),
        group=int(group) if group and world % int(group) == 0 else None,
        assumptions=Assumptions(framework_gib=0.0 if on_cpu else 0.5, fragmentation=0.0),
        reduce_bucket=_size(zero, "reduce_bucket_size", 500_000_000),
        prefetch_bucket=_size(zero, "stage3_prefetch_bucket_size", 50_000_000),
        max_live=_size(zero, "stage3_max_live_parameters", 1_000_000_000),
    )


def _has_store(task: Any) -> bool:
    return bool(getattr(task, "target_store", None))


def _size(zero: Mapping[str, Any], key: str, default: int) -> int:
    """Return a size in parameters; DeepSpeed's default where it is not said."""
    value = zero.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return int(value) if value >= 1 else default
