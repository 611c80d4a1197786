"""The losses and measures as one would first write them: torch's special functions in float64.

Right while concentrations stay moderate (|z| below about 15), for a vocabulary of any size. The
gradient is autograd's. This is the baseline of the benchmarks.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def dirichlet_entropy(alpha: Tensor) -> Tensor:
    """(...) H[Dir(α)] of (..., V) concentrations."""
    V, precision = alpha.shape[-1], alpha.sum(-1)
    return (
        torch.lgamma(alpha).sum(-1)
        - torch.lgamma(precision)
        + (precision - V) * torch.digamma(precision)
        - ((alpha - 1) * torch.digamma(alpha)).sum(-1)
    )


def proxy_dirichlet(
    logits: Tensor,
    mean_probs: Tensor,
    inverse_precision: Tensor,
    offset: float = 1.0,
    normalisation: str = "proxy",
) -> Tensor:
    """(...) −Σ p̄ (ψ(α) − ψ(α₀)) − H[Dir(α)]/w."""
    alpha = logits.double().exp() + offset
    inverse_w = _inverse_normaliser(inverse_precision.double(), alpha.shape[-1], normalisation)
    expected_log = torch.digamma(alpha) - torch.digamma(alpha.sum(-1, keepdim=True))
    return -(mean_probs.double() * expected_log).sum(-1) - dirichlet_entropy(alpha) * inverse_w


def proxy_dirichlet_forward(
    logits: Tensor,
    mean_probs: Tensor,
    inverse_precision: Tensor,
    offset: float = 1.0,
    normalisation: str = "proxy",
) -> Tensor:
    """(...) KL(Dir(β)‖Dir(α))/w."""
    alpha = logits.double().exp() + offset
    beta = mean_probs.double() / inverse_precision.double().unsqueeze(-1) + 1
    inverse_w = _inverse_normaliser(inverse_precision.double(), alpha.shape[-1], normalisation)
    return kl(beta, alpha) * inverse_w


def kl(alpha: Tensor, beta: Tensor) -> Tensor:
    """(...) KL(Dir(α)‖Dir(β))."""
    expected_log = torch.digamma(alpha) - torch.digamma(alpha.sum(-1, keepdim=True))
    return (
        torch.lgamma(alpha.sum(-1))
        - torch.lgamma(beta.sum(-1))
        + (torch.lgamma(beta) - torch.lgamma(alpha)).sum(-1)
        + ((alpha - beta) * expected_log).sum(-1)
    )


def end2(logits: Tensor, mean_log_probs: Tensor, offset: float = 1.0) -> Tensor:
    """(...) Σ lnΓ(α) − lnΓ(α₀) − Σ (α − 1) ℓ̄."""
    alpha = logits.double().exp() + offset
    log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1))
    return log_beta - ((alpha - 1) * mean_log_probs.double()).sum(-1)


def mean_kl(logits: Tensor, mean_probs: Tensor) -> Tensor:
    """(...) KL(p̄‖softmax(z))."""
    p = mean_probs.double()
    return (torch.xlogy(p, p) - p * torch.log_softmax(logits.double(), -1)).sum(-1)


def value_and_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return a loss (...) and autograd's gradient of its sum (..., V), both float64."""
    leaf = logits.detach().double().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _inverse_normaliser(inverse_precision: Tensor, V: int, normalisation: str) -> Tensor:
    if normalisation == "proxy":
        return inverse_precision
    return inverse_precision / (1 + V * inverse_precision)
