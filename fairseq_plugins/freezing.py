"""Parts of a student that a training leaves as they are: ``--freeze`` and ``--train-only``."""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from seqdistill.errors import InputError

logger = logging.getLogger(__name__)


def freeze_parts(model: nn.Module, cfg: Any) -> None:
    """Take parameters out of the training, as the options say, before the optimizer is made.

    Args:
        model: the student, with all its outputs.
        cfg: with ``freeze`` and ``train_only``: patterns of parameters' names with commas between
            them, or None.

    Raises:
        InputError: a pattern is that of no parameter, both options are given, or nothing is left.
    """
    if cfg.freeze and cfg.train_only:
        raise InputError("--freeze and --train-only: give one of them")
    if not cfg.freeze and not cfg.train_only:
        return
    option = "--freeze" if cfg.freeze else "--train-only"
    patterns = [part.strip() for part in (cfg.freeze or cfg.train_only).split(",")]
    chosen = parameters_of(model, patterns, option)
    for parameter in model.parameters():
        is_chosen = any(parameter is one for one in chosen)
        parameter.requires_grad_(is_chosen != bool(cfg.freeze))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not trained:
        raise InputError(f"{option} {','.join(patterns)}: nothing is left to be trained")
    total = sum(p.numel() for p in model.parameters())
    logger.info(f"{option}: {trained:,} of {total:,} parameters are trained")


def parameters_of(
    model: nn.Module, patterns: Sequence[str], option: str = "patterns"
) -> list[nn.Parameter]:
    """Return the parameters that one of the patterns is for.

    A parameter that two modules share has two names; one of them is enough.

    Args:
        model: whose.
        patterns: as of file names: ``encoder.*``.
        option: that they were given to, for messages.

    Raises:
        InputError: a pattern is that of no parameter.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
        >>> [tuple(one.shape) for one in parameters_of(model, ["1.*"])]
        [(4, 3), (4,)]
    """
    named = list(model.named_parameters(remove_duplicate=False))
    chosen: dict[int, nn.Parameter] = {}
    for pattern in patterns:
        found = [parameter for name, parameter in named if fnmatchcase(name, pattern)]
        if not found:
            first = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name, _ in named))
            raise InputError(
                f"{option} {pattern}: no parameter has such a name; they begin with {first}"
            )
        chosen |= {id(parameter): parameter for parameter in found}
    return list(chosen.values())
