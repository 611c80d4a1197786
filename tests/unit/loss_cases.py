"""Tokens, teachers and references that the tests of the losses share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqdistill.losses import (
    end2_loss,
    mean_kl_loss,
    proxy_dirichlet_forward_loss,
    proxy_dirichlet_loss,
)
from seqdistill.targets import ProxyDirichletTarget, proxy_dirichlet_target
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics
from tests.reference import float64, loss_terms, losses

TEACHERS = ("flat", "peaked", "apart")
LOGITS = ("small", "wide", "widest", "ramp", "low", "high", "one_high", "optimal")


def member_log_probs(
    kind: str, V: int, *, N: int = 1, M: int = 3, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(M, N, V): nearly uniform, agreeing on one piece, or contradicting each other."""
    generator = torch.Generator().manual_seed(V)
    logits = torch.randn(M, N, V, generator=generator, dtype=torch.float64)
    if kind == "flat":
        logits *= 0.05
    elif kind == "peaked":
        logits[..., 0] += 12
    elif kind == "apart":
        logits *= 4
    else:
        raise ValueError(kind)
    return torch.log_softmax(logits, dim=-1).to(dtype)


def statistics_of(kind: str, V: int, **options: int) -> EnsembleStatistics:
    return ensemble_statistics(member_log_probs(kind, V, **options))


def target_of(
    kind: str, V: int, concentration: str = "mkl", **options: int
) -> ProxyDirichletTarget:
    return proxy_dirichlet_target(statistics_of(kind, V, **options), concentration)


def student_logits(kind: str, target: ProxyDirichletTarget) -> Tensor:
    """(N, V) float32 in −80 … 80."""
    N, V = target.mean_probs.shape
    generator = torch.Generator().manual_seed(V)
    normal = torch.randn(N, V, generator=generator)
    one_high = torch.full((N, V), -80.0)
    one_high[:, 0] = 80.0
    return {
        "small": normal,
        "wide": normal * 10,
        "widest": (normal * 40).clamp(-80, 80),
        "ramp": torch.linspace(-80, 80, V).expand(N, V).clone(),
        "low": torch.full((N, V), -80.0),
        "high": torch.full((N, V), 80.0),
        "one_high": one_high,
        "optimal": (target.mean_probs / target.inverse_precision[:, None]).log().clamp(-80, 80),
    }[kind]


@dataclass(frozen=True)
class Case:
    """One loss with all its choices made.

    Attributes:
        name: as tests print it.
        loss: (logits, mask) → sum, count.
        value_and_gradient: of logits (V,), in 100 digits.
        terms: the size of the parts of value and gradient.
        naive: (N, V) logits → (N,), in float64 of torch's own functions.
        grows: the value grows with e^z: its parts cancel, and it leaves float32 with a large V.
    """

    name: str
    loss: Callable[..., tuple[Tensor, Tensor]]
    value_and_gradient: Callable[[Tensor], Any]
    terms: Callable[[Tensor], Any]
    naive: Callable[[Tensor], Tensor]
    grows: bool


def cases(statistics: EnsembleStatistics, concentration: str, offset: float) -> list[Case]:
    """All distillation losses with an offset, each normalised in both ways where it can be."""
    target = proxy_dirichlet_target(statistics, concentration)
    p, inverse, log_probs = target.mean_probs, target.inverse_precision, statistics.mean_log_probs
    made = []
    for normalisation in ("proxy", "total"):
        for name, loss in (
            ("proxy_dirichlet", proxy_dirichlet_loss),
            ("proxy_dirichlet_forward", proxy_dirichlet_forward_loss),
        ):

            def apply(z: Tensor, mask: Any = None, loss: Any = loss, n: str = normalisation) -> Any:
                return loss(z, target, mask, offset=offset, normalisation=n)

            def token(function: Any, n: str = normalisation) -> Any:
                return lambda z, row=0: function(z, p[row], inverse[row], offset, n)

            def rows(z: Tensor, name: str = name, n: str = normalisation) -> Tensor:
                return getattr(float64, name)(z, p, inverse, offset, n)

            made.append(
                Case(
                    f"{name}-{normalisation}",
                    apply,
                    token(getattr(losses, name)),
                    token(getattr(loss_terms, name)),
                    rows,
                    name != "proxy_dirichlet",
                )
            )
    made.append(
        Case(
            "end2",
            lambda z, mask=None: end2_loss(z, statistics, mask, offset=offset),
            lambda z, row=0: losses.end2(z, log_probs[row], offset),
            lambda z, row=0: loss_terms.end2(z, log_probs[row], offset),
            lambda z: float64.end2(z, log_probs, offset),
            True,
        )
    )
    return made


def mean_kl_case(statistics: EnsembleStatistics) -> Case:
    """EnD, which has no offset."""
    p = statistics.mean_probs

    def terms(z: Tensor, row: int = 0) -> Any:
        value, gradient = losses.mean_kl(z, p[row])
        return value + 1, [g + 2 * q for g, q in zip(gradient, p[row].tolist(), strict=True)]

    return Case(
        "mean_kl",
        lambda z, mask=None: mean_kl_loss(z, statistics, mask),
        lambda z, row=0: losses.mean_kl(z, p[row]),
        terms,
        lambda z: float64.mean_kl(z, p),
        False,
    )


def all_cases(statistics: EnsembleStatistics) -> list[Case]:
    """Every loss at both offsets with the default concentration, for what holds for all."""
    made = [mean_kl_case(statistics)]
    for offset in (0.0, 1.0):
        made += cases(statistics, "mkl", offset)
    return made
