"""The Concrete distribution (Maddison, Mnih & Teh 2017; Gumbel-softmax of Jang, Gu & Poole 2017).

With weights α_v > 0 and a temperature λ > 0, x = softmax((ln α + g)/λ) of V independent standard
Gumbel variates g lies on the simplex, and its density there is (Maddison and others, eq. 10)

    f(x) = (V − 1)! λ^{V−1} Π_v (α_v x_v^{−λ−1}) / (Σ_j α_j x_j^{−λ})^V

Everything here is said of ln x, so that nothing over- or underflows: with u = ln α − λ ln x,

    ln f(x) = lnΓ(V) + (V − 1) ln λ + Σ_v u_v − V logsumexp(u) − Σ_v ln x_v

and without the last sum it is the density of ln x itself (the paper's ExpConcrete, in V − 1 of
the logarithms), which is the one to compare models of log-probabilities by. Facts that tests hold:

- P(argmax x = v) = α_v/Σα at every λ; for λ → 0 samples become one-hot, x tends to the categorical
  distribution of α/Σα, and the mean E[x] to its probabilities; for λ → ∞ x tends to uniform;
- only differences of ln α count;
- the ratios of some of the entries, x_S/Σ_S x, are Concrete with α_S and the same λ.
"""

import math

import torch
from torch import Tensor

from seqdistill.errors import InputError


def concrete_log_density(log_probs: Tensor, log_weights: Tensor, temperature: Tensor) -> Tensor:
    """Return ln f(x), the density on the simplex (in its first V − 1 coordinates).

    Args:
        log_probs: (..., V) ln x, finite; V ≥ 2.
        log_weights: (..., V) ln α.
        temperature: (...) or a scalar, λ > 0.

    Returns:
        (...) nats.

    Raises:
        InputError: a point on the border of the simplex, a temperature of 0 or below, one piece.

    Example:
        >>> half = torch.tensor([0.5, 0.5]).log()
        >>> concrete_log_density(half, torch.zeros(2), torch.tensor(1.0)).exp()
        tensor(1.)
    """
    of_logs = exp_concrete_log_density(log_probs, log_weights, temperature)
    return of_logs - log_probs.sum(dim=-1)


def exp_concrete_log_density(log_probs: Tensor, log_weights: Tensor, temperature: Tensor) -> Tensor:
    """Return the log-density of the first V − 1 of the log-probabilities ln x.

    Args, Raises: as of :func:`concrete_log_density`.
    """
    V = log_probs.shape[-1]
    if V < 2:
        raise InputError(f"expected a simplex of at least 2 pieces, got {tuple(log_probs.shape)}")
    if not bool((temperature > 0).all()):
        raise InputError("expected Concrete temperatures above 0")
    if not bool(torch.isfinite(log_probs).all()):
        raise InputError(
            "a probability of 0 (or NaN) lies on the border of the simplex, where a Concrete "
            "distribution has no density; smooth it, or leave that piece out of the composition"
        )
    gaps = log_weights - temperature.unsqueeze(-1) * log_probs
    constant = math.lgamma(V) + (V - 1) * temperature.log()
    # V logsumexp(u) − Σ u = −Σ ln softmax(u): one sum of terms of one sign.
    return constant + torch.log_softmax(gaps, dim=-1).sum(dim=-1)


def exp_concrete_entropy(V: int, temperature: Tensor) -> Tensor:
    """Return the differential entropy of ln x, nats; the weights α do not count.

    E[logsumexp(u) − mean(u)] = ψ(V) + γ, since e^{−g} are V exponentials and their sum a gamma, so

        H = V (ψ(V) + γ) − lnΓ(V) − (V − 1) ln λ

    Args:
        V: pieces, 2 or more.
        temperature: (...) λ > 0.
    """
    like = temperature.new_tensor(float(V))
    constant = V * (torch.digamma(like) - torch.digamma(torch.ones_like(like)))  # ψ(1) = −γ
    return constant - math.lgamma(V) - (V - 1) * temperature.log()


def concrete_log_samples(log_weights: Tensor, temperature: Tensor, gumbels: Tensor) -> Tensor:
    """Return ln x of Concrete samples.

    Args:
        log_weights: (..., V) ln α.
        temperature: (...) or a scalar, λ > 0.
        gumbels: (..., V) standard Gumbel variates (:func:`gumbel_variates`), broadcast.

    Returns:
        (..., V) log-probabilities.
    """
    return torch.log_softmax((log_weights + gumbels) / temperature.unsqueeze(-1), dim=-1)


def gumbel_variates(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return standard Gumbel variates −ln(−ln u), finite, the same for the same generator."""
    return -(-open_uniforms(shape, generator).log()).log().to(dtype)


def open_uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return float64 uniform numbers in the open interval (0, 1), whose quantiles are finite."""
    # torch draws multiples of 2^−53 from 0 on; 1 itself is not among them.
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
    return drawn.clamp_min(2.0**-54)
