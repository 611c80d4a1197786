"""DeepSpeed's engine for a student of fairseq."""

import logging
import os
from typing import Any

import torch
from fairseq import optim
from torch import distributed, nn

from fairseq_plugins.scale.configuration import EngineConfiguration
from seqdistill.errors import InputError


def build_engine(model: nn.Module, cfg: Any, configuration: EngineConfiguration) -> Any:
    """Return the engine that trains a model.

    Args:
        model: whole; from ZeRO 3 on it is in parts afterwards.
        cfg: fairseq's configuration.
        configuration: the engine's.

    Raises:
        InputError: fairseq's optimizer cannot work on parts of tensors, or the device does not
            compute in float16 and is to.
    """
    _join_processes(cfg)
    import deepspeed

    if cfg.common.fp16 and not deepspeed.get_accelerator().is_fp16_supported():
        raise InputError(
            "--fp16: DeepSpeed finds no float16 products on this device; take --bf16, or leave it "
            "away"
        )
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = None
    if not configuration.has_optimizer:
        optimizer = _fairseqs_optimizer(cfg, parameters, configuration.stage)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        model_parameters=parameters,
        config=configuration.values,
    )
    return engine


def _fairseqs_optimizer(
    cfg: Any, parameters: list[nn.Parameter], stage: int
) -> torch.optim.Optimizer:
    name = str(cfg.optimizer._name)
    if name == "composite":
        raise InputError(f"--optimizer {name} cannot be used with --deepspeed; give one of its own")
    wrapped = optim.build_optimizer(cfg.optimizer, parameters)
    if stage > 0 and not wrapped.supports_flat_params:
        raise InputError(
            f"--optimizer {name} works on whole tensors, and 'zero_optimization.stage' {stage} "
            "splits them; use stage 0, or an optimizer that works number by number, such as adam"
        )
    inner: torch.optim.Optimizer = wrapped.optimizer
    return inner


def _join_processes(cfg: Any) -> None:
    """Make sure of what the engine needs even of a single process: a group, and its number."""
    settings = cfg.distributed_training
    os.environ.setdefault("LOCAL_RANK", str(max(0, settings.device_id)))
    if not distributed.is_initialized():
        use_gpu = torch.cuda.is_available() and not cfg.common.cpu
        store = distributed.HashStore()  # type: ignore[attr-defined]
        backend = "nccl" if use_gpu else "gloo"
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
