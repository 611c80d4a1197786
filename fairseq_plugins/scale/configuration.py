"""The engine's configuration: the JSON of ``--deepspeed``, completed and checked by fairseq's."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError


@dataclass(frozen=True)
class EngineConfiguration:
    """What the engine is given.

    Attributes:
        values: DeepSpeed's configuration, whole.
        path: the JSON's, for messages.
    """

    values: dict[str, Any]
    path: str

    @property
    def stage(self) -> int:
        """ZeRO's stage, 0 to 3."""
        return int(self.values.get("zero_optimization", {}).get("stage", 0))

    @property
    def has_optimizer(self) -> bool:
        """Whether the optimizer is DeepSpeed's rather than fairseq's."""
        return "optimizer" in self.values


def read_json(path: str) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"--deepspeed {path}: no such file") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(values).__name__}")
    return values


def engine_configuration(
    given: dict[str, Any], cfg: Any, world_size: int, path: str
) -> EngineConfiguration:
    """Return the engine's configuration."""
    values = dict(given)
    stage = values.get("zero_optimization", {}).get("stage", 0)
    micro = cfg.dataset.batch_size or 1
    steps = max(cfg.optimization.update_freq)
    values["train_micro_batch_size_per_gpu"] = micro
    values["gradient_accumulation_steps"] = steps
    values["train_batch_size"] = micro * steps * world_size
    values["managed_gradient_accumulation"] = False
    values["gradient_clipping"] = cfg.optimization.clip_norm
    values["zero_allow_untested_optimizer"] = True
    if not stage and not cfg.common.fp16 and not cfg.common.bf16:
        # The seam clips: an engine in float32 without ZeRO keeps no norm.
        values["gradient_clipping"] = 0.0
    if cfg.common.fp16:
        values["fp16"] = {"enabled": True}
    if cfg.common.bf16:
        values["bf16"] = {"enabled": True}
    return EngineConfiguration(values, path)
