"""The engine's configuration: the JSON of ``--deepspeed``, checked against fairseq's options.

Where fairseq has an option for what a key says, the key may be left away or ``"auto"``, and then
says what fairseq says; any other value must be the same. So neither decides silently.
"""

from dataclasses import dataclass
from typing import Any

from fairseq_plugins.scale.agreement import AUTO, Agreement
from fairseq_plugins.scale.batches import batch_sizes
from fairseq_plugins.scale.keys import FIXED, check_keys
from fairseq_plugins.scale.precision import bf16_section, fp16_section
from fairseq_plugins.scale.zero import optimizer_section, zero_section
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
        return int(self.values["zero_optimization"]["stage"])

    @property
    def has_optimizer(self) -> bool:
        """Whether the optimizer is DeepSpeed's rather than fairseq's."""
        return "optimizer" in self.values


def engine_configuration(
    given: dict[str, Any], cfg: Any, world_size: int, path: str
) -> EngineConfiguration:
    """Return the engine's configuration.

    Args:
        given: the JSON.
        cfg: fairseq's configuration.
        world_size: processes of the training.
        path: the JSON's, for messages.

    Raises:
        InputError: a key is unknown or contradicts an option; options cannot be used together.
    """
    check_keys(given, path)
    check_options(cfg)
    agreement = Agreement(path)
    values = dict(given)
    values |= {key: value for key, (value, _) in FIXED.items()}
    values["zero_optimization"] = zero = zero_section(given, path)
    values |= batch_sizes(given, cfg, world_size, agreement)
    values["fp16"] = fp16_section(given.get("fp16", {}), cfg, world_size, agreement)
    values["bf16"] = bf16_section(given.get("bf16", {}), cfg, agreement)
    clip_norm = cfg.optimization.clip_norm
    clipping = given.get("gradient_clipping")
    values["gradient_clipping"] = agreement.agreed(
        "gradient_clipping", clipping, "--clip-norm", clip_norm
    )
    if zero["stage"] == 0:
        if cfg.common.fp16 or cfg.common.bf16:
            option = "--fp16" if cfg.common.fp16 else "--bf16"
            raise InputError(
                f"{path}: {option} needs 'zero_optimization.stage' 1 or more: without ZeRO, "
                "DeepSpeed's optimizer for 16 bits starts with an empty step, and Adam counts it"
            )
        # The seam clips: an engine in float32 without ZeRO keeps no norm.
        values["gradient_clipping"] = 0.0
    if zero["stage"] == 3:
        _check_validation(cfg, path)
    optimizer = optimizer_section(given, cfg, zero, agreement)
    values.pop("optimizer", None)
    if optimizer is not None:
        values["optimizer"] = optimizer
    activations = given.get("activation_checkpointing", {})
    for key, value in activations.items():
        if value:
            raise InputError(
                f"{path}: 'activation_checkpointing.{key}' is {value!r}, but fairseq's models do "
                "not ask DeepSpeed for checkpoints of activations; use --checkpoint-activations "
                "(and --offload-activations) instead"
            )
    for section, key, value in _autos(values):
        raise InputError(
            f"{path}: '{section}{key}' is {value!r}, but fairseq has no option for it; leave it "
            "away for DeepSpeed's default"
        )
    return EngineConfiguration(values, path)


#: fairseq's options that do not go with the engine: section, name, the value that does, and why.
_OPTIONS = (
    ("common", "amp", False, "use --fp16 or --bf16"),
    ("common", "memory_efficient_fp16", False, "use --fp16; the engine keeps its own copies"),
    ("common", "memory_efficient_bf16", False, "use --bf16; the engine keeps its own copies"),
    ("common", "model_parallel_size", 1, "all processes are data-parallel"),
    ("common", "quantization_config_path", None, "it rebuilds the model"),
    ("optimization", "use_bmuf", False, "the engine synchronises processes"),
    ("distributed_training", "zero_sharding", "none", "the JSON's zero_optimization says it"),
    ("distributed_training", "pipeline_model_parallel", False, "all are data-parallel"),
    ("distributed_training", "cpu_offload", False, "the JSON's zero_optimization says it"),
    ("ema", "store_ema", False, "parameters may be in parts"),
)


def check_options(cfg: Any) -> None:
    """Refuse options of fairseq that the engine would leave out.

    Raises:
        InputError: such an option.
    """
    for section, name, fitting, reason in _OPTIONS:
        value = getattr(getattr(cfg, section), name, fitting)
        if value != fitting:
            raise InputError(
                f"--{name.replace('_', '-')} cannot be used with --deepspeed: {reason}"
            )
    if cfg.common.tpu and not cfg.common.bf16:  # which fairseq lets imply it
        raise InputError("--tpu cannot be used with --deepspeed, which has no TPUs")
    if str(getattr(cfg.optimizer, "_name", "")) == "sgld":
        raise InputError(
            "--optimizer sgld cannot be used with --deepspeed: processes would have noise for a "
            "part of the weights, or the same for different parts"
        )
    if str(getattr(cfg.task, "moving_teacher", "none")) != "none":
        raise InputError(
            "--moving-teacher cannot be used with --deepspeed: the teacher follows whole weights, "
            "and parameters may be in parts"
        )
    backend = str(cfg.distributed_training.ddp_backend)
    if backend in ("fully_sharded", "slowmo"):
        raise InputError(
            f"--ddp-backend {backend} cannot be used with --deepspeed: the engine distributes"
        )


def _check_validation(cfg: Any, path: str) -> None:
    for name in ("eval_bleu", "eval_wer"):
        if getattr(cfg.task, name, False):
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{path}: {option} cannot be used with 'zero_optimization.stage' 3: a decoder's "
                "weights are in parts, and processes decode different numbers of steps. Use stage "
                f"2, or leave {option} away and decode with the consolidated checkpoint"
            )


def _autos(values: dict[str, Any], section: str = "") -> Any:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _autos(value, f"{section}{key}.")
        elif value == AUTO and key != "keep_in_fp32_modules":
            yield section, key, value
