"""Going on from a pointer to shards, with as many ranks or others; or from ordinary weights."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from fairseq.logging import meters, metrics
from torch import Tensor, distributed, nn

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.scale.saving import precision, shapes
from seqdistill.errors import InputError
from seqdistill.integrations.deepspeed.pointers import Shards, read_pointer
from seqdistill.integrations.deepspeed.universal import convert
from seqdistill.integrations.deepspeed.weights import load_weights

logger = logging.getLogger(__name__)

T = TypeVar("T")


def resume(
    trainer: Any,
    filename: str,
    reset_optimizer: bool = False,
    reset_lr_scheduler: bool = False,
    optimizer_overrides: Mapping[str, Any] | None = None,
    reset_meters: bool = False,
) -> dict[str, Any] | None:
    """Load what there is under a checkpoint's name; called on all ranks.

    A pointer: the engine's whole state, or (``reset_optimizer``) the weights. An ordinary
    checkpoint that is given to ``--restore-file``: its weights.

    Returns:
        fairseq's extra state (the position in the data and more); None where training starts anew.

    Raises:
        InputError: it cannot be gone on from; the message says what can be done.
    """
    found = _on_rank_0(trainer, lambda: _look(trainer, filename))
    if found is None:
        logger.info(f"No existing checkpoint found {filename}")
        return None
    if not isinstance(found, tuple):
        _start_from_weights(trainer, filename)
        return None
    state, shards = found
    if reset_optimizer:
        folder = shards.path(filename)
        trainer.unpartitioned_model.load_state_dict(load_weights(folder, shards))
    else:
        _check_same(trainer, filename, state, shards)
        folder = _on_rank_0(trainer, lambda: _prepare(trainer, filename, shards))
        _load_engine(trainer, folder, shards.path(filename), shards)
        for group in trainer.optimizer.param_groups:
            group.update(optimizer_overrides or {})
        last = state["optimizer_history"][-1]
        if not reset_lr_scheduler:
            trainer.lr_scheduler.load_state_dict(last["lr_scheduler_state"])
        trainer.set_num_updates(last["num_updates"])
    extra: dict[str, Any] = state["extra_state"]
    _adapt_position(extra["train_iterator"], shards.ranks, trainer.data_parallel_world_size)
    _restore_progress(trainer, extra, reset_meters)
    trainer.set_history(state["optimizer_history"])
    logger.info(
        f"Loaded checkpoint {filename} (epoch {extra['train_iterator']['epoch']} @ "
        f"{trainer.get_num_updates()} updates; shards of {shards.ranks} ranks, ZeRO {shards.stage})"
    )
    return extra


def _look(trainer: Any, filename: str) -> tuple[dict[str, Any], Shards] | str | None:
    """Return a pointer's content; the name of an ordinary checkpoint; None where there is none."""
    if not Path(filename).is_file():
        return None
    found = read_pointer(filename)
    if found is None:
        if trainer.cfg.checkpoint.restore_file == "checkpoint_last.pt":
            raise InputError(
                f"{filename} is an ordinary checkpoint, not one of --deepspeed, and would be "
                "replaced. To start from its weights, choose another --save-dir and give this file "
                "to --restore-file; to go on with it, leave --deepspeed away"
            )
        return filename
    shards = found[1]
    shards.check(filename)
    _check_shapes(filename, shards.shapes, shapes(trainer.unpartitioned_model))
    return found


def _start_from_weights(trainer: Any, filename: str) -> None:
    weights: dict[str, Tensor] = load_checkpoint(filename)["model"]
    model: nn.Module = trainer.unpartitioned_model
    _check_shapes(filename, {name: [*w.shape] for name, w in weights.items()}, shapes(model))
    model.load_state_dict(weights)
    logger.warning(
        f"{filename} is an ordinary checkpoint: training starts at update 0 from its weights; its "
        "optimiser, learning rate and position in the data are not used"
    )


def _check_shapes(
    filename: str, found: Mapping[str, list[int]], wanted: Mapping[str, list[int]]
) -> None:
    wrong = [
        f"{name} is {'x'.join(map(str, found[name])) if name in found else 'missing'} in it, "
        f"{'x'.join(map(str, wanted[name])) if name in wanted else 'not'} in the model"
        for name in sorted({*found, *wanted})
        if list(found.get(name, [-1])) != list(wanted.get(name, [-2]))
    ]
    if wrong:
        raise InputError(
            f"{filename}: of another model than the options describe ({len(wrong)} weights differ: "
            f"{'; '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}). Give the architecture and "
            "the data it was trained with"
        )


def _check_same(trainer: Any, filename: str, state: dict[str, Any], shards: Shards) -> None:
    """Refuse another criterion or optimizer, as fairseq does."""
    criterion = type(trainer.get_criterion()).__name__
    saved = state["optimizer_history"][-1]["criterion_name"]
    if criterion != saved:
        raise InputError(
            f"{filename}: trained with the criterion {saved}, now {criterion}; add "
            "--reset-optimizer to start another training from its weights"
        )
    optimizer = type(trainer.engine.basic_optimizer).__name__
    if optimizer != shards.optimizer and not all(
        "adam" in name.lower() for name in (optimizer, shards.optimizer)
    ):
        raise InputError(
            f"{filename}: trained with the optimizer {shards.optimizer}, now {optimizer}; add "
            "--reset-optimizer to start another training from its weights"
        )


def _prepare(trainer: Any, filename: str, shards: Shards) -> Path:
    """Return the folder that the engine can load: the shards themselves or their universal form."""
    engine = trainer.engine
    stage, ranks = int(engine.zero_optimization_stage()), int(engine.dp_world_size)
    of = (shards.stage, shards.ranks, shards.precision)
    now = (stage, ranks, precision(engine))
    folder = shards.path(filename)
    if of == now or (of[0], of[2]) == (0, now[2]) == (stage, now[2]):
        return folder
    if not (shards.stage and stage):
        raise InputError(
            f"{filename}: its shards are of ZeRO {shards.stage} in {shards.precision}, the "
            f"configuration says ZeRO {stage} in {now[2]}, and ZeRO 0 is not converted. Go on with "
            f"stage {shards.stage} in {shards.precision}, or add --reset-optimizer to start from "
            "the weights"
        )
    logger.info(
        f"{filename}: shards of {of[1]} ranks, ZeRO {of[0]}, {of[2]}, for {now[1]} ranks, ZeRO "
        f"{now[0]}, {now[2]}: through DeepSpeed's universal checkpoint, which is made once"
    )
    return convert(folder, shards)


def _load_engine(trainer: Any, folder: Path, of_shards: Path, shards: Shards) -> None:
    engine = trainer.engine
    universal = folder != of_shards
    # The configuration of this run, not of that one. Another precision has its own loss scale.
    kept = ["clip_grad"]
    if shards.precision != precision(engine):
        kept += ["loss_scaler", "dynamic_loss_scale"]
    with _kept(engine.optimizer, kept), _loading_universal(engine, universal):
        loaded, _ = engine.load_checkpoint(
            str(folder.parent), tag=folder.name, load_lr_scheduler_states=False
        )
    if loaded is None:
        raise InputError(f"{folder}: DeepSpeed found no checkpoint in it")
    if universal:
        _load_the_untrained(engine, of_shards, shards)


@contextmanager
def _loading_universal(engine: Any, universal: bool) -> Iterator[None]:
    """Let the engine load a universal checkpoint, which else its JSON decides when it is built."""
    before = engine.load_universal_checkpoint()
    engine._config.load_universal_checkpoint = universal
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = before


@contextmanager
def _kept(thing: Any, names: list[str]) -> Iterator[None]:
    before = {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    yield
    for name, value in before.items():
        setattr(thing, name, value)


def _load_the_untrained(engine: Any, folder: Path, shards: Shards) -> None:
    """Load buffers and frozen weights, which the engine leaves out of a universal checkpoint."""
    import deepspeed

    module: nn.Module = engine.module
    buffers = {name for name, _ in module.named_buffers()} & set(shards.shapes)
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    if not buffers and not frozen:
        return
    weights = load_weights(folder, shards)
    with torch.no_grad():
        for name in buffers:
            module.get_buffer(name).copy_(weights[name])
        for name, parameter in frozen.items():
            with deepspeed.zero.GatheredParameters(
                [parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")
            ):
                if hasattr(parameter, "ds_id") and distributed.get_rank() != 0:
                    continue
                parameter.copy_(weights[name])


def _adapt_position(position: dict[str, Any], ranks: int, now: int) -> None:
    """Say where in the epoch other ranks go on: fairseq counts the batches of one rank."""
    done = position.get("iterations_in_epoch", 0) * ranks
    position["iterations_in_epoch"] = done // now
    if done % now:
        logger.info(
            f"{done % now} of {done} batches of this epoch come again: {now} ranks share it"
        )


def _restore_progress(trainer: Any, extra: dict[str, Any], reset_meters: bool) -> None:
    """Take up times, epoch and meters, as fairseq's own load_checkpoint does."""
    if "previous_training_time" in extra:
        trainer._previous_training_time = extra["previous_training_time"]
        trainer._start_time = time.time()
    trainer.lr_step(extra["train_iterator"]["epoch"])
    begins_an_epoch = extra["train_iterator"].get("iterations_in_epoch") == 0
    if "metrics" in extra and not reset_meters and not begins_an_epoch:
        metrics.load_state_dict(extra["metrics"])
        for meter in metrics.get_meters("default"):
            if isinstance(meter, meters.TimeMeter):  # their starts were in another process
                meter.reset()


def _on_rank_0(trainer: Any, work: Callable[[], T]) -> T:
    """Return on all ranks what rank 0 finds; raise on all of them where it refuses."""
    if not distributed.is_initialized():  # a single process, before it has its engine
        return work()
    box: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            box[0] = work()
        except InputError as error:
            box[1] = str(error)
    distributed.broadcast_object_list(box, src=0, device=trainer.device)
    if box[1] is not None:
        raise InputError(box[1])
    found: T = box[0]
    return found
