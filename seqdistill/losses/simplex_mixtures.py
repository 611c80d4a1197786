"""Synthetic points of the simplex, and how likely they are under a Concrete distribution.

A Concrete distribution around a trained model's predictions lacks one thing, its temperature λ, and
references are one-hot: corners, where it has no density. Esaki, Nakamura, Kawano and Tokuhisa
(AISTATS 2024) mix inputs of different classes with weights w from a Dirichlet distribution; the
model's answer to the mixture should then be near w, a point inside. Here features are mixed, since
text cannot be: h = Σ_k w_k h_k of K positions with different references, whose logits are the same
mixture of logits. w has K entries above 0, and the ratios of K entries of a Concrete vector are
Concrete with the same λ, so their density is all that is needed: it costs K, not V.
"""

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.numerics.concrete import exp_concrete_log_density, open_uniforms

#: ln w of a mixture is at least this: what is mixed in with less is not there in float32 features.
SMALLEST_LOG_WEIGHT = -60.0


def mixture_log_weights(
    count: int, members: int, concentration: float, generator: torch.Generator
) -> Tensor:
    """Return (count, members) ln w of w ~ Dir(β, …, β), float64; exact where w itself would be 0.

    Args:
        count: of mixtures.
        members: K positions in each, at least 2.
        concentration: β > 0: below 1 most weight is on one position, above 1 it is even.
        generator: of the draws.

    Raises:
        InputError: fewer than two members, or a concentration that is not above 0.
    """
    if members < 2:
        raise InputError(f"expected mixtures of at least 2 positions, got {members}")
    if not 0.0 < concentration < float("inf"):
        raise InputError(f"expected a Dirichlet concentration above 0, got {concentration}")
    shape = (count, members)
    # Γ(β) = Γ(β + 1) U^{1/β} in law: a small β would underflow.
    ones = torch.full(shape, concentration + 1.0, dtype=torch.float64)
    logs = torch._standard_gamma(ones, generator=generator).log()
    logs += open_uniforms(shape, generator).log() / concentration
    return torch.log_softmax(logs, dim=-1).clamp_min(SMALLEST_LOG_WEIGHT)


def different_targets(
    targets: Tensor, count: int, members: int, generator: torch.Generator
) -> Tensor:
    """Return (count, members) positions, those of a row with different targets.

    Args:
        targets: (N,) reference tokens.
        count: of rows.
        members: of a row.
        generator: of the draws.

    Raises:
        InputError: there are fewer different targets than ``members``.
    """
    different = int(torch.bincount(targets).count_nonzero())
    if different < members:
        raise InputError(
            f"expected at least {members} different reference tokens to mix, got {different}"
        )
    found: list[Tensor] = []
    missing = count
    while missing > 0:
        drawn = torch.randint(len(targets), (2 * missing, members), generator=generator)
        ordered = targets[drawn].sort(dim=1).values
        good = drawn[(ordered.diff(dim=1) != 0).all(dim=1)][:missing]
        found.append(good)
        missing -= len(good)
    return torch.cat(found)


def simplex_loss(
    log_weights: Tensor, locations: Tensor, log_temperatures: Tensor
) -> tuple[Tensor, Tensor]:
    """Return −ln of the density of mixing weights under Concrete distributions, and their number.

    The density is that of ln w, in the K − 1 free entries, and an entry is what is counted: nats.

    Args:
        log_weights: (n, K) ln w.
        locations: (n, K) ln α of the mixed positions' references, without a common constant.
        log_temperatures: (n,) ln λ.

    Returns:
        Loss sum (scalar), differentiable in locations and temperatures, and n.

    Raises:
        InputError: shapes differ, or as of :func:`exp_concrete_log_density`.

    Example:
        >>> half = torch.tensor([[0.5, 0.5]]).log()
        >>> loss, _ = simplex_loss(half, torch.zeros(1, 2), torch.zeros(1))
        >>> loss  # the density of ln x at ln ½ is ¼
        tensor(1.3863)
    """
    if log_weights.shape != locations.shape or log_temperatures.shape != locations.shape[:1]:
        raise InputError(
            f"expected weights and locations (n, K) and one temperature a row, got "
            f"{tuple(log_weights.shape)}, {tuple(locations.shape)} and "
            f"{tuple(log_temperatures.shape)}"
        )
    entries = locations.shape[-1] - 1
    centred = locations - locations.mean(dim=-1, keepdim=True)
    densities = exp_concrete_log_density(log_weights, centred, log_temperatures.exp())
    return -densities.sum() / entries, torch.tensor(len(locations), device=locations.device)
