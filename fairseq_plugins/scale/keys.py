"""Which keys a JSON of ``--deepspeed`` may have, and what happens to those that it may not."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from seqdistill.errors import InputError

#: Top-level keys that say what an option of fairseq says, too: they are compared.
COMPARED = (
    "bf16",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
)

#: Top-level keys that the engine is given as they are.
PASSED = (
    "aio",
    "checkpoint",
    "comet",
    "comms_logger",
    "communication_data_type",
    "csv_monitor",
    "data_types",
    "disable_python_gc",
    "dump_state",
    "flops_profiler",
    "gradient_predivide_factor",
    "log_level",
    "memory_breakdown",
    "prescale_gradients",
    "steps_per_print",
    "tensorboard",
    "timers",
    "wall_clock_breakdown",
    "wandb",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)

#: Top-level keys with one value that goes with fairseq; it may be said.
FIXED: Mapping[str, tuple[Any, str]] = {
    "gradient_allreduce_op": ("mean", "the loss is scaled for a mean over ranks"),
    "managed_gradient_accumulation": (
        False,
        "fairseq says where an update ends (the last one of an epoch can have fewer batches)",
    ),
    "zero_allow_untested_optimizer": (True, "fairseq's optimizers are unknown to DeepSpeed"),
}

#: Top-level keys of DeepSpeed that fairseq does the work of, or that do not go with it.
REFUSED: Mapping[str, str] = {
    "amp": "use fairseq's --fp16 or --bf16",
    "autotuning": "it starts trainings by itself",
    "bfloat16": "the key is called bf16 now",
    "compile": "it does not go with gradient accumulation that fairseq ends",
    "curriculum_learning": "fairseq orders the data (--curriculum)",
    "data_efficiency": "fairseq samples the data",
    "dataloader_drop_last": "fairseq makes the batches",
    "data_parallel_size": "all processes are data-parallel",
    "disable_allgather": "DeepSpeed itself ignores it",
    "elasticity": "DeepSpeed has removed it",
    "expert_parallel": "students have no experts",
    "hybrid_engine": "it is for models of the transformers library",
    "pipeline": "fairseq's models are not pipelines",
    "scheduler": "fairseq sets the learning rate: --lr-scheduler and its options",
    "seq_parallel_communication_data_type": "sequences are not split over processes",
    "sequence_parallel_size": "sequences are not split over processes",
    "sparse_gradients": "DeepSpeed has removed it",
    "tensor_parallel": "fairseq's layers are not split over processes",
    "torch_autocast": "use fairseq's --fp16 or --bf16",
    "use_data_before_expert_parallelism": "students have no experts",
    "vocabulary_size": "fairseq's dictionary says it",
    "weight_quantization": "it is for inference",
}

_ACTIVATIONS = (
    "contiguous_memory_optimization",
    "cpu_checkpointing",
    "number_checkpoints",
    "partition_activations",
    "profile",
    "synchronize_checkpoint_boundary",
)
_OPTIMIZER_PARAMS = (
    "adam_w_mode",
    "betas",
    "bias_correction",
    "eps",
    "foreach",
    "fp32_optimizer_states",
    "lr",
    "torch_adam",
    "weight_decay",
)


def known_keys() -> dict[str, Iterable[str]]:
    """Return the keys of each section, by its dotted path; "" is the top.

    Sections that DeepSpeed describes by classes have the keys of the installed version.
    """
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    profiler = ("detailed", "enabled", "module_depth", "output_file", "profile_step")
    aio = ("block_size", "intra_op_parallelism", "overlap_events", "queue_depth")
    return {
        "": (*COMPARED, *PASSED, *FIXED, *REFUSED, "activation_checkpointing"),
        "activation_checkpointing": _ACTIVATIONS,
        "aio": (*aio, "single_submit", "thread_count", "use_gds"),
        "bf16": _fields(DeepSpeedBF16Config),
        "checkpoint": (
            "checkpoint_serialization",
            "load_universal",
            "parallel_write",
            "tag_validation",
            "use_node_local_storage",
            "writer",
        ),
        "checkpoint.parallel_write": ("pipeline_stage",),
        "comet": _fields(CometConfig),
        "comms_logger": _fields(CommsLoggerConfig),
        "csv_monitor": _fields(CSVConfig),
        "data_types": ("buffer_dtype", "grad_accum_dtype", "keep_in_fp32_modules", "param_dtype"),
        "flops_profiler": (*profiler, "recompute_fwd_factor", "top_modules"),
        "fp16": _fields(DeepSpeedFP16Config),
        "optimizer": ("params", "type"),
        "optimizer.params": _OPTIMIZER_PARAMS,
        "tensorboard": _fields(TensorBoardConfig),
        "timers": ("throughput",),
        "timers.throughput": ("enabled", "synchronized"),
        "wandb": _fields(WandbConfig),
        "zero_optimization": _fields(DeepSpeedZeroConfig),
        "zero_optimization.leaf_module": _fields(DeepSpeedZeroLeafModuleConfig),
        "zero_optimization.offload_optimizer": _fields(DeepSpeedZeroOffloadOptimizerConfig),
        "zero_optimization.offload_param": _fields(DeepSpeedZeroOffloadParamConfig),
    }


def check_keys(values: Mapping[str, Any], path: str) -> None:
    """Refuse keys that are unknown or cannot be used, at any depth.

    Args:
        values: the JSON's object.
        path: the JSON's, for messages.

    Raises:
        InputError: such a key; an unknown one is told the nearest known.
    """
    known = known_keys()
    for section, key, value in _walk(values, ""):
        name = f"{section}.{key}" if section else key
        if section in known and key not in known[section]:
            raise InputError(f"{path}: unknown key {name!r}{_nearest(key, known[section])}")
        if name in REFUSED and value not in (None, False):
            raise InputError(f"{path}: {name!r} cannot be used with fairseq: {REFUSED[name]}")
        if name in known and not isinstance(value, Mapping):
            raise InputError(f"{path}: {name!r}: expected an object, got {value!r}")
        if name in FIXED and value != FIXED[name][0]:
            fixed, reason = FIXED[name]
            raise InputError(f"{path}: {name!r} must be {fixed!r}, got {value!r}: {reason}")


def _walk(values: Mapping[str, Any], section: str) -> Iterator[tuple[str, str, Any]]:
    for key, value in values.items():
        yield section, key, value
        if isinstance(value, Mapping):
            yield from _walk(value, f"{section}.{key}" if section else key)


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)
    return f"; the nearest known one is {near[0]!r}" if near else ""


def _fields(model: Any) -> tuple[str, ...]:
    """Return a class's keys, under both names where they have two."""
    names = [(name, field.alias) for name, field in model.model_fields.items()]
    return tuple(sorted({name for pair in names for name in pair if name}))
