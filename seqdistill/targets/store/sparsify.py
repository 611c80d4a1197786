"""From an ensemble's statistics to what is stored of each token."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.targets.proxy import proxy_dirichlet_target
from seqdistill.targets.store.coding import encode_log_probs, encode_probs, piece_dtype
from seqdistill.targets.store.files import Array
from seqdistill.targets.store.settings import StoreSettings
from seqdistill.teachers import EnsembleStatistics

# Rows of "exact" precisions at a time: Newton's method holds some ten arrays of (rows, V).
_EXACT_ROWS = 256


@dataclass(frozen=True)
class TokenRows:
    """What is stored of N tokens, and what they add to the prior.

    Attributes:
        pieces: (E) the tokens' pieces one after another, the likeliest of a token first.
        probs: (E) p̄ of them, as stored.
        log_probs: (E) ℓ̄ of them, as stored; only for EnD².
        counts: (N) pieces of each token.
        scalars: (N, C) float32, the settings' columns.
        prior_sums: sums over the tokens that the prior is made of, see :mod:`.prior`.
    """

    pieces: Array
    probs: Array
    log_probs: Array | None
    counts: Array
    scalars: Array
    prior_sums: dict[str, Array]


@torch.no_grad()
def sparsify(statistics: EnsembleStatistics, settings: StoreSettings) -> TokenRows:
    """Return what is stored of N tokens.

    The pieces are the k with the largest p̄; with a bound of the tail mass, k is the smallest (at
    least 1) whose tail is at most the bound, and never above the largest k. The tail mass is summed
    over the tail itself: 1 − Σ would lose the digits of a small one.

    Args:
        statistics: of N tokens, tensors (N, V) and (N), on any device.
        settings: say what is kept.

    Raises:
        InputError: the statistics are of another vocabulary, ensemble or temperature, or ℓ̄ is
            infinite where EnD² needs it.
    """
    _check(statistics, settings)
    mean_probs = statistics.mean_probs
    V = mean_probs.shape[-1]
    values, pieces = mean_probs.topk(settings.widest, dim=-1)  # (N, K)
    counts, kept = _chosen(mean_probs, values, settings)
    tail = mean_probs.scatter(-1, pieces, values.masked_fill(kept, 0))  # (N, V), 0 at the pieces
    tail_mass = tail.sum(-1, dtype=torch.float64)
    probs = encode_probs(values[kept], settings.dtype, keep_positive=settings.for_end2)

    columns = {
        "tail_mass": tail_mass,
        "total_uncertainty": statistics.total_uncertainty,
        "mutual_information": statistics.mutual_information,
        "reverse_mutual_information": statistics.reverse_mutual_information,
    }
    if settings.exact_precision:
        columns["exact_inverse_precision"] = _exact_inverse_precision(statistics)
    # A piece lies in the tail of a token, or its tail mass is counted here.
    weights_inside = tail_mass.new_zeros(V).index_add_(
        0, pieces[kept], tail_mass.repeat_interleave(counts)
    )
    prior_sums = {
        "tail_sums": tail.sum(0, dtype=torch.float64),
        "tail_weights": (tail_mass.sum() - weights_inside).clamp_min_(0),
    }
    log_probs = None
    if settings.for_end2:
        mean_log_probs = statistics.mean_log_probs
        log_values = mean_log_probs.gather(-1, pieces)
        log_probs = encode_log_probs(log_values[kept], probs)
        total = mean_log_probs.sum(-1, dtype=torch.float64)
        tail_total = total - log_values.masked_fill(~kept, 0).sum(-1, dtype=torch.float64)
        columns["tail_log_mean"] = torch.where(
            counts < V, tail_total / (V - counts).clamp_min(1), torch.zeros_like(total)
        )
        prior_sums["log_sums"] = mean_log_probs.sum(0, dtype=torch.float64)

    scalars = torch.stack([columns[name].float() for name in settings.columns], dim=-1)
    return TokenRows(
        pieces=pieces[kept].cpu().numpy().astype(piece_dtype(V)),
        probs=probs.cpu().numpy(),
        log_probs=None if log_probs is None else log_probs.cpu().numpy(),
        counts=counts.cpu().numpy(),
        scalars=scalars.cpu().numpy(),
        prior_sums={name: values.cpu().numpy() for name, values in prior_sums.items()},
    )


def _chosen(mean_probs: Tensor, values: Tensor, settings: StoreSettings) -> tuple[Tensor, Tensor]:
    """Return (N) how many pieces each token keeps, and (N, K) which of its likeliest."""
    N, K = values.shape
    place = torch.arange(K, device=values.device)
    if settings.tail_bound is None:
        counts = torch.full((N,), K, device=values.device)
    else:
        # Tail masses after 1, 2 … pieces, summed from the smallest: V − K pieces, then upwards.
        beyond = mean_probs.sum(-1, dtype=torch.float64) - values.sum(-1, dtype=torch.float64)
        upwards = values.double().flip(-1).cumsum(-1).flip(-1)  # Σ of this piece and smaller ones
        after = torch.cat([upwards[:, 1:], torch.zeros_like(upwards[:, :1])], dim=-1)
        after += beyond.clamp_min(0).unsqueeze(-1)
        counts = ((after > settings.tail_bound).sum(-1) + 1).clamp_max(K)
    return counts, place < counts.unsqueeze(-1)


def _exact_inverse_precision(statistics: EnsembleStatistics) -> Tensor:
    names = [
        "mean_probs", "mean_log_probs", "total_uncertainty", "data_uncertainty",
        "mutual_information", "epkl", "reverse_mutual_information",
    ]  # fmt: skip
    parts = []
    for begin in range(0, len(statistics.mean_probs), _EXACT_ROWS):
        rows = slice(begin, begin + _EXACT_ROWS)
        part = replace(statistics, **{name: getattr(statistics, name)[rows] for name in names})
        parts.append(proxy_dirichlet_target(part, "exact").inverse_precision)
    return torch.cat(parts) if parts else statistics.epkl


def _check(statistics: EnsembleStatistics, settings: StoreSettings) -> None:
    V = statistics.mean_probs.shape[-1]
    for name, expected, found in (
        ("vocabulary entries", settings.vocabulary_size, V),
        ("members", settings.members, statistics.members),
        ("as temperature", settings.temperature, statistics.temperature),
    ):
        if expected != found:
            raise InputError(f"the store was planned with {expected} {name}, got {found}")
    if settings.for_end2 and not bool(statistics.mean_log_probs.isfinite().all()):
        raise InputError(
            "a member gives some piece the probability 0, and EnD² needs its logarithm; make the "
            "store without what EnD² needs, or use teachers that exclude no piece"
        )
