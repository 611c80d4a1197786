"""The JSON's ``fp16`` and ``bf16``, as fairseq's options say them."""

import math
from typing import Any

from fairseq_plugins.scale.agreement import Agreement
from seqdistill.errors import InputError


def bf16_section(given: dict[str, Any], cfg: Any, agreement: Agreement) -> dict[str, Any]:
    """Return the engine's ``bf16``."""
    _switch("bf16", given, cfg.common.bf16, agreement)
    return dict(given) | {"enabled": bool(cfg.common.bf16)}


def fp16_section(
    given: dict[str, Any], cfg: Any, world_size: int, agreement: Agreement
) -> dict[str, Any]:
    """Return the engine's ``fp16``, with fairseq's loss scale.

    fairseq lowers the scale at the first overflow (a hysteresis of 1), unless
    ``--fp16-scale-tolerance``, which DeepSpeed does not have. DeepSpeed's lowest scale is a whole
    number: fairseq's default of 0.0001 becomes 1.

    Raises:
        InputError: a contradiction, or what DeepSpeed's scaler cannot do.
    """
    common = cfg.common
    _switch("fp16", given, common.fp16, agreement)
    if not common.fp16:
        return {"enabled": False}
    if given.get("auto_cast"):
        raise InputError(
            f"{agreement.path}: 'fp16.auto_cast' is true, but fairseq casts batches itself (--fp16)"
        )
    if common.fp16_scale_tolerance:
        raise InputError(
            f"--fp16-scale-tolerance {common.fp16_scale_tolerance:g} cannot be used with "
            "--deepspeed, whose loss scaler counts overflows ('fp16.hysteresis')"
        )
    if common.threshold_loss_scale is not None:
        raise InputError(
            "--threshold-loss-scale cannot be used with --deepspeed, whose loss scaler has one "
            "lowest scale (--min-loss-scale, 'fp16.min_loss_scale')"
        )
    power = math.log2(common.fp16_init_scale)
    if not power.is_integer():
        raise InputError(
            f"--fp16-init-scale {common.fp16_init_scale}: with --deepspeed expected a power of 2 "
            "('fp16.initial_scale_power')"
        )
    window = common.fp16_scale_window
    if window is None:
        # fairseq's default.
        window = int(2**14 / world_size / max(cfg.optimization.update_freq))
    lowest = common.min_loss_scale
    if lowest >= 1 and not float(lowest).is_integer():
        raise InputError(
            f"--min-loss-scale {lowest:g}: with --deepspeed expected a whole number "
            "('fp16.min_loss_scale')"
        )
    agreed = {
        "loss_scale": ("its loss scale, which is dynamic (0),", 0),
        "initial_scale_power": (f"--fp16-init-scale {common.fp16_init_scale}, as power,", power),
        "loss_scale_window": ("--fp16-scale-window", max(1, window)),
        "hysteresis": ("--fp16-scale-tolerance (0, every overflow counts), as hysteresis,", 1),
        "min_loss_scale": ("--min-loss-scale, from 1 on,", int(max(1, lowest))),
    }
    section = dict(given) | {"enabled": True}
    for key, (option, value) in agreed.items():
        section[key] = agreement.agreed(f"fp16.{key}", given.get(key), option, value)
    section["initial_scale_power"] = int(power)
    return section


def _switch(name: str, given: dict[str, Any], chosen: bool, agreement: Agreement) -> None:
    """Compare ``enabled``; a section with other keys alone says nothing of it."""
    agreement.agreed(f"{name}.enabled", given.get("enabled"), f"--{name}", bool(chosen))
