"""The JSON's ``zero_optimization`` and ``optimizer``."""

import json
from typing import Any

from fairseq_plugins.scale.agreement import AUTO, Agreement
from seqdistill.errors import InputError


def zero_section(given: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the engine's ``zero_optimization``.

    Raises:
        InputError: a value is none of DeepSpeed's, or does not go with fairseq.
    """
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero: dict[str, Any] = {"stage": 0} | dict(given.get("zero_optimization", {}))
    for key in ("zenflow", "super_offload"):
        if zero.get(key) or (zero.get("offload_optimizer") or {}).get(key):
            raise InputError(f"{path}: {key!r} cannot be used with fairseq: it delays updates")
    if zero.get("compute_grad_norm") is False:
        raise InputError(
            f"{path}: 'zero_optimization.compute_grad_norm' is false, but fairseq logs and clips "
            "by that norm; leave it away"
        )
    stage: Any = zero["stage"]
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        raise InputError(f"{path}: 'zero_optimization.stage': expected 0 to 3, got {stage!r}")
    if zero.get("overlap_comm") is True and stage < 2:
        raise InputError(
            f"{path}: 'zero_optimization.overlap_comm' needs stage 2 or 3, the stage is {stage}: "
            "below, gradients are added up at the end of an update"
        )
    offloads = [key for key in ("offload_optimizer", "offload_param") if _device(zero, key)]
    needed = {"offload_optimizer": 1, "offload_param": 3}
    for key in offloads:
        if stage < needed[key]:
            raise InputError(
                f"{path}: 'zero_optimization.{key}' needs stage {needed[key]} or more, the stage "
                f"is {stage}"
            )
    try:
        DeepSpeedZeroConfig(**{key: value for key, value in zero.items() if value != AUTO})
    except (ValueError, AssertionError) as error:
        raise InputError(f"{path}: 'zero_optimization': {_plainly(error)}") from error
    return zero


def _device(zero: dict[str, Any], key: str) -> str | None:
    device = (zero.get(key) or {}).get("device", "none")
    return None if device == "none" else str(device)


def _plainly(error: Exception) -> str:
    """Return what pydantic says, in one line."""
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    return "; ".join(
        f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r})"
        for one in details()
    )


def optimizer_section(
    given: dict[str, Any], cfg: Any, zero: dict[str, Any], agreement: Agreement
) -> dict[str, Any] | None:
    """Return the section of an optimizer of DeepSpeed; None: fairseq's own is given to it.

    Args:
        given: the JSON.
        cfg: fairseq's configuration.
        zero: the engine's ``zero_optimization``.
        agreement: compares.

    Raises:
        InputError: another optimizer than fairseq's, or with other settings.
    """
    name = str(cfg.optimizer._name)
    section: dict[str, Any] | None = given.get("optimizer")
    if section is None:
        if not _device(zero, "offload_optimizer"):
            return None
        if name != "adam":
            raise InputError(
                f"{agreement.path}: 'zero_optimization.offload_optimizer' needs --optimizer adam "
                f"(DeepSpeed has one for the CPU), got --optimizer {name}"
            )
        section = {"type": "AdamW"}
    if name != "adam" or str(section.get("type")).lower() not in ("adam", "adamw"):
        raise InputError(
            f"{agreement.path}: 'optimizer.type' is {section.get('type')!r}, fairseq's --optimizer "
            f"is {name!r}; the JSON can replace fairseq's adam by DeepSpeed's (Adam or AdamW), "
            "other optimizers are fairseq's: leave the section away"
        )
    options = cfg.optimizer
    given_params: dict[str, Any] = dict(section.get("params") or {})
    if given_params.get("adam_w_mode") is False and options.weight_decay:
        raise InputError(
            f"{agreement.path}: 'optimizer.params.adam_w_mode' is false, but fairseq's Adam decays "
            f"weights apart from the gradient (--weight-decay {options.weight_decay})"
        )
    betas = options.adam_betas
    if isinstance(betas, str):
        betas = json.loads(f"[{betas.strip('()[] ')}]")
    fairseqs = {
        "lr": ("--lr", cfg.optimization.lr[0]),
        "betas": ("--adam-betas", [float(beta) for beta in betas]),
        "eps": ("--adam-eps", options.adam_eps),
        "weight_decay": ("--weight-decay", options.weight_decay),
    }
    params = {key: value for key, value in given_params.items() if key not in fairseqs}
    for key, (option, value) in fairseqs.items():
        said = given_params.get(key)
        params[key] = agreement.agreed(f"optimizer.params.{key}", said, option, value)
    return {"type": "AdamW", "params": params}
