"""The Proxy-Dirichlet: one Dirichlet a token that stands for the ensemble.

Its mean direction is the ensemble's p̄ and its precision β̃₀ says how much the members agree. Only
1/β̃₀ is ever stored: members that agree give 0, not a division by 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.numerics import ExpGamma
from seqdistill.teachers import EnsembleStatistics

CONCENTRATIONS = ("mkl", "epkl", "exact")

# Newton's method in ln β̃₀ on a nearly straight function: converged to 1e-7 after 4 steps.
_NEWTON_STEPS = 6


@dataclass(frozen=True)
class ProxyDirichletTarget:
    """The proxy Dir(β), β = β̃₀ p̄ + 1, of each token.

    Attributes:
        mean_probs: (..., V) p̄.
        inverse_precision: (...) 1/β̃₀ ≥ 0; 0 where the members agree.
        concentration: how β̃₀ was had: ``mkl``, ``epkl`` or ``exact``.
    """

    mean_probs: Tensor
    inverse_precision: Tensor
    concentration: str

    @property
    def precision(self) -> Tensor:
        """(...) β̃₀, infinite where the members agree."""
        return self.inverse_precision.reciprocal()


def proxy_dirichlet_target(
    statistics: EnsembleStatistics, concentration: str = "mkl"
) -> ProxyDirichletTarget:
    """Return the Proxy-Dirichlet of an ensemble.

    ``mkl``: β̃₀ = (V − 1)/(2 RMI), the paper's choice (Ryabinin, Malinin & Gales 2021, eq. 9), a
    Stirling approximation that is low by up to a factor of 2 for sparse p̄. ``epkl``:
    β̃₀ = (V − 1)/EPKL, exact when the members are drawn from a Dirichlet. ``exact``: the β̃₀ at
    which Dir(β̃₀ p̄) has the ensemble's RMI, by Newton's method in ln β̃₀.

    Args:
        statistics: of M members, tensors (..., V) and (...).
        concentration: ``mkl``, ``epkl`` or ``exact``.

    Returns:
        The target: mean_probs (..., V), inverse_precision (...).

    Raises:
        InputError: an unknown concentration.

    Example:
        >>> import torch
        >>> from seqdistill.teachers import ensemble_statistics
        >>> s = ensemble_statistics(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log())
        >>> t = proxy_dirichlet_target(s)
        >>> torch.isclose(t.precision, 0.5 / s.reverse_mutual_information)
        tensor(True)
    """
    V = statistics.mean_probs.shape[-1]
    rmi = statistics.reverse_mutual_information
    if concentration == "mkl":
        inverse_precision = 2 * rmi / (V - 1)
    elif concentration == "epkl":
        inverse_precision = statistics.epkl / (V - 1)
    elif concentration == "exact":
        inverse_precision = inverse_precision_by_rmi(statistics.mean_probs, rmi)
    else:
        raise InputError(
            f"expected a concentration among {', '.join(CONCENTRATIONS)}, got {concentration!r}"
        )
    return ProxyDirichletTarget(statistics.mean_probs, inverse_precision, concentration)


def inverse_precision_by_rmi(mean_probs: Tensor, rmi: Tensor) -> Tensor:
    """Solve RMI(Dir(β̃₀ p̄)) = rmi for 1/β̃₀.

    With f(x) = x (ln x − ψ(x)), which falls from 1 (x → 0) to 1/2 (x → ∞),
    RMI = F/β̃₀, F = Σ_v f(β̃₀ p̄_v) − f(β̃₀). So the root solves ln β̃₀ + ln rmi = ln F(β̃₀), where
    F lies in [(V−1)/2, V − 1/2]: a bounded, nearly constant right-hand side.
    """
    V = mean_probs.shape[-1]
    tiny = torch.finfo(mean_probs.dtype).tiny
    log_probs = mean_probs.clamp_min(tiny).log()
    log_rmi = rmi.clamp_min(tiny).log().unsqueeze(-1)
    lower = torch.full_like(log_rmi, (V - 1) / 2).log() - log_rmi
    upper = torch.full_like(log_rmi, V - 0.5).log() - log_rmi
    log_precision = lower
    for _ in range(_NEWTON_STEPS):
        f, slope = _stirling_gap(torch.cat([log_precision + log_probs, log_precision], dim=-1))
        F = f[..., :-1].sum(-1, keepdim=True) - f[..., -1:]
        slope_F = slope[..., :-1].sum(-1, keepdim=True) - slope[..., -1:]
        residual = log_precision + log_rmi - F.log()
        step = residual / (1 - slope_F / F)
        log_precision = torch.minimum(torch.maximum(log_precision - step, lower), upper)
    inverse = (-log_precision).exp().squeeze(-1)
    return torch.where(rmi > 0, inverse, torch.zeros_like(inverse))


def _stirling_gap(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(x) = x (ln x − ψ(x)) and its derivative in ln x, at x = e^z."""
    gamma = ExpGamma(z)
    x = z.exp()
    f = 1 - x * gamma.digamma_excess
    # Beyond 1e4 the product of a large x and a tiny excess loses its digits; Stirling does not.
    stirling = 0.5 + 1 / (12 * x.clamp_min(1.0))
    large = z > 9.2
    f = torch.where(large, stirling, f)
    slope = torch.where(large, 0.5 - stirling, f + gamma.trigamma_gap - 1)
    return f, slope
