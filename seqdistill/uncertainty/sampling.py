"""Members drawn from a Dirichlet student: what each says of the chosen tokens.

π ~ Dir(α) is α's gammas over their sum, so the probability of one token is

    π_y = g_y / (g_y + g_rest),   g_y ~ Gamma(α_y),   g_rest ~ Gamma(α₀ − α_y)

two gammas instead of V. Joint measures need no more of a member. The noise behind a draw depends
on the seed, the position and the member's number alone: not on the batch, the beam, or whether a
text is decoded or force-decoded, so every way to the same hypothesis gives the same numbers.

Draws are independent from step to step. So mean_s P_s(y) estimates Π_l α_y/α₀ without bias, and the
EP measures of a student tend to its PE measures as the samples grow.
"""

from functools import lru_cache

import torch
from torch import Tensor

from seqdistill.errors import InputError

#: Proposals of the rejection sampler. One is refused with a probability below 0.05, all of them
#: with one below 1e-20; the last then stands.
_PROPOSALS = 16

_CHUNK_ELEMENTS = 1 << 21

_Noise = tuple[Tensor, Tensor, Tensor]


def sampled_log_probs(
    logits: Tensor,
    tokens: Tensor,
    positions: Tensor,
    offset: float,
    *,
    samples: int,
    seed: int = 0,
    rows: Tensor | None = None,
) -> Tensor:
    """Log-probabilities of tokens under members drawn from Dir(e^z + offset).

    Args:
        logits: (R, V) student logits z, any floating dtype.
        tokens: (N,) the tokens looked up.
        positions: (N,) their positions in their sequences, from 0.
        offset: 1 or 0.
        samples: S, how many members are drawn.
        seed: of the draws.
        rows: (N,) the row of ``logits`` that each token belongs to; None: N = R, one each.

    Returns:
        (S, N) ln π_y, float64.

    Raises:
        InputError: no samples, or an unknown offset.

    Example:
        >>> import torch
        >>> z = torch.zeros(1, 3)
        >>> one = sampled_log_probs(z, torch.tensor([1]), torch.tensor([0]), 1.0, samples=2000)
        >>> bool((one.exp().mean() - 1 / 3).abs() < 0.02)
        True
    """
    if samples < 1:
        raise InputError(f"expected at least 1 sample, got {samples}")
    if offset not in (0, 1):
        raise InputError(f"expected an offset of 1 (default) or 0, got {offset}")
    if rows is None:
        rows = torch.arange(logits.shape[0], device=logits.device)
    # A few tokens at a time: neither their rows in float64 nor their noise takes much memory.
    size = max(1, _CHUNK_ELEMENTS // max(logits.shape[-1], 4 * _PROPOSALS * samples))
    order = torch.arange(len(tokens), device=tokens.device)
    drawn = [
        _sampled(logits[rows[part]].double(), tokens[part], positions[part], offset, samples, seed)
        for part in torch.split(order, size)
    ]
    return torch.cat(drawn).transpose(0, 1)


def _sampled(
    logits: Tensor, tokens: Tensor, positions: Tensor, offset: float, samples: int, seed: int
) -> Tensor:
    """Return (N, S) ln π_y of tokens (N,) at logits (N, V)."""
    tokens = tokens.unsqueeze(-1)
    chosen = logits.gather(-1, tokens).squeeze(-1)
    # Summed without the chosen one, not as a difference: a sure student would leave nothing.
    others = torch.logsumexp(logits.scatter(-1, tokens, -torch.inf), dim=-1)
    rest = others.exp() + offset * (logits.shape[-1] - 1)
    noise = _noise_of(positions, samples, seed, logits.device)
    log_chosen = _log_gamma_variates(chosen.exp() + offset, *(part[..., 0, :] for part in noise))
    log_rest = _log_gamma_variates(rest, *(part[..., 1, :] for part in noise))
    return log_chosen - torch.logaddexp(log_chosen, log_rest)


def _log_gamma_variates(
    shape: Tensor, normals: Tensor, log_uniforms: Tensor, log_boosts: Tensor
) -> Tensor:
    """Draw ln g, g ~ Gamma(shape), from given noise (Marsaglia & Tsang 2000).

    A shape below 1 is drawn as Gamma(shape + 1) · U^(1/shape).

    Args:
        shape: (N,) above 0.
        normals: (N, S, proposals) standard normal.
        log_uniforms: (N, S, proposals) logarithms of uniform numbers.
        log_boosts: (N, S, 1) likewise.
    """
    shape = shape.unsqueeze(-1)
    d = torch.where(shape < 1, shape + 1, shape) - 1 / 3
    c = (9 * d).rsqrt()
    found = torch.zeros_like(normals[..., 0])
    is_open = torch.ones_like(found, dtype=torch.bool)
    for proposal in range(normals.shape[-1]):
        x, log_u = normals[..., proposal], log_uniforms[..., proposal]
        root = 1 + c * x
        log_v = 3 * root.clamp_min(torch.finfo(root.dtype).tiny).log()
        bound = 0.5 * x * x + d * (1 - log_v.exp() + log_v)
        is_accepted = (root > 0) & (log_u < bound)
        found = torch.where(is_open, log_v, found)
        is_open = is_open & ~is_accepted
    boost = torch.where(shape < 1, log_boosts[..., 0] / shape, 0.0)
    return d.log() + found + boost


def _noise_of(positions: Tensor, samples: int, seed: int, device: torch.device) -> _Noise:
    """Return the noise of each position (N,): three tensors (N, S, 2, proposals or 1)."""
    places, index = torch.unique(positions, return_inverse=True)
    of_places = [_noise(seed, int(place), samples) for place in places.tolist()]
    normals, log_uniforms, log_boosts = (
        torch.stack(parts).to(device)[index] for parts in zip(*of_places, strict=True)
    )
    return normals, log_uniforms, log_boosts


@lru_cache(maxsize=512)
def _noise(seed: int, position: int, samples: int) -> _Noise:
    """Return one position's noise, (S, 2, proposals or 1) each; the same on every machine."""
    generator = torch.Generator().manual_seed(seed)
    # Mixed into one seed: neighbouring seeds and positions must not share their noise.
    mixed = torch.randint(2**62, (position + 1,), generator=generator)[position]
    generator = torch.Generator().manual_seed(int(mixed))
    # Member by member, so that more samples continue the same ones.
    drawn = torch.rand((samples, 2, 2 * _PROPOSALS + 1), generator=generator, dtype=torch.float64)
    # 1 − u lies in (0, 1]: its logarithm is finite.
    log_uniforms = (1 - drawn).log()
    normals = torch.special.ndtri(
        (1 - drawn[..., :_PROPOSALS]).clamp_max(1 - torch.finfo(torch.float64).eps)
    )
    return normals, log_uniforms[..., _PROPOSALS:-1], log_uniforms[..., -1:]
