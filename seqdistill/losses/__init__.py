"""Stage three: losses as plain functions ``loss(logits, target, mask) -> (sum, count)``."""

from collections.abc import Callable
from typing import Any

from seqdistill.losses.cross_entropy import label_smoothed_cross_entropy
from seqdistill.losses.end2 import end2_loss
from seqdistill.losses.expectations import expectations_loss
from seqdistill.losses.hydra import hydra_loss
from seqdistill.losses.mean_kl import mean_kl_loss
from seqdistill.losses.proxy_dirichlet import (
    proxy_dirichlet_forward_loss,
    proxy_dirichlet_loss,
)

#: Every distillation loss by the name that command lines use.
LOSSES: dict[str, Callable[..., Any]] = {
    "proxy_dirichlet": proxy_dirichlet_loss,
    "proxy_dirichlet_forward": proxy_dirichlet_forward_loss,
    "end2": end2_loss,
    "mean_kl": mean_kl_loss,
}

__all__ = [
    "LOSSES",
    "end2_loss",
    "expectations_loss",
    "hydra_loss",
    "label_smoothed_cross_entropy",
    "mean_kl_loss",
    "proxy_dirichlet_forward_loss",
    "proxy_dirichlet_loss",
]
