"""``--layer-gates``: gates on the layers of a model in training, and of its checkpoints."""

from typing import Any

from torch import nn

from seqdistill.errors import InputError
from seqdistill.teachers.cheap.gates import attach_gates


def gate_settings(cfg: Any) -> dict[str, float] | None:
    """Return what the options say of gates, as the checkpoint's task state has it; None: none."""
    if getattr(cfg, "layer_gates", None) is None:
        return None
    return {"keep": float(cfg.layer_gates), "temperature": float(cfg.gate_temperature)}


def gate_layers(model: Any, settings: dict[str, float] | None) -> None:
    """Give the layers of a model that was just built their gates, if it has some.

    Raises:
        InputError: the model is no transformer, or a number is out of its range.
    """
    if settings is None:
        return
    for side in ("encoder", "decoder"):
        stack = getattr(model, side, None)
        layers = getattr(stack, "layers", None) or getattr(stack, "transformer_layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise InputError(
                f"--layer-gates: expected a transformer, found no layers of the {side}; leave the "
                "option away"
            )
        attach_gates(list(layers.children()), settings["keep"], settings["temperature"])


def check_gates(settings: dict[str, float] | None, criterion: Any) -> None:
    """Raise an ``InputError`` unless gates and their criterion come together."""
    has_prior = getattr(criterion, "gate_kl_weight", None) is not None
    if settings is not None and not has_prior:
        raise InputError(
            "--layer-gates needs --criterion gated_cross_entropy; others leave the gates' prior out"
        )
    if settings is None and has_prior:
        raise InputError(
            "--criterion gated_cross_entropy needs --layer-gates, the probability of keeping a "
            "layer to begin with, such as 0.8"
        )
