"""From the stored rows of sentences to the targets of a batch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqdistill.targets.sparse import SparseTarget
from seqdistill.targets.store.coding import decode_log_probs, decode_probs, piece_dtype
from seqdistill.targets.store.files import Array
from seqdistill.targets.store.settings import StoreSettings


def assemble(
    rows: list[dict[str, Array]],
    settings: StoreSettings,
    prior: Tensor,
    log_prior: Tensor | None,
) -> SparseTarget:
    """Return the targets of sentences, one after another.

    Args:
        rows: of each sentence, what :meth:`~seqdistill.targets.store.shards.Shard.rows` gives.
        settings: of the store.
        prior: (V) of the store.
        log_prior: (V) of the store, if it was made for EnD².
    """
    columns = _scalars(rows, settings)
    pieces, stored, stored_logs, own = _entries(rows, settings)
    probs = decode_probs(stored)
    log_probs = None if stored_logs is None else decode_log_probs(stored_logs, probs)
    tail_mass = columns["tail_mass"]
    if settings.dtype == "float16":
        # So that pieces and tail sum to 1, see seqdistill.targets.store.coding.
        probs.mul_(((1 - tail_mass) / _row_sums(probs, own)).unsqueeze(-1))
    shift = None
    if log_prior is not None:
        shift = _tail_log_shift(columns["tail_log_mean"], log_prior, pieces, own)
    mi, rmi = columns["mutual_information"], columns["reverse_mutual_information"]
    return SparseTarget(
        pieces=pieces,
        probs=probs,
        tail_mass=tail_mass,
        prior=prior,
        total_uncertainty=columns["total_uncertainty"],
        mutual_information=mi,
        epkl=mi + rmi,
        reverse_mutual_information=rmi,
        exact_inverse_precision=columns.get("exact_inverse_precision"),
        log_probs=log_probs,
        tail_log_shift=shift,
        log_prior=log_prior,
        members=settings.members,
        temperature=settings.temperature,
    )


def _scalars(rows: list[dict[str, Array]], settings: StoreSettings) -> dict[str, Tensor]:
    scalars = _joined(rows, "scalars", np.float32, (len(settings.columns),))
    columns = torch.from_numpy(np.ascontiguousarray(scalars.T))
    return dict(zip(settings.columns, columns.unbind(), strict=True))


def _entries(
    rows: list[dict[str, Array]], settings: StoreSettings
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return pieces, and probs and log_probs as stored, (N, K), and which are a token's own.

    If k is adaptive, tokens with fewer pieces repeat their first; those are not their own.
    """
    number = np.dtype(settings.dtype)
    inner = () if settings.is_adaptive else (settings.widest,)
    pieces = _joined(rows, "pieces", piece_dtype(settings.vocabulary_size), inner)
    probs = _joined(rows, "probs", number, inner)
    log_probs = _joined(rows, "log_probs", number, inner) if settings.for_end2 else None
    own = None
    if settings.is_adaptive:
        counts = _joined(rows, "counts", np.uint32, ())
        own = np.arange(counts.max(initial=1), dtype=np.uint32) < counts[:, None]
        pieces, probs = _padded(pieces, counts, own), _padded(probs, counts, own)
        log_probs = None if log_probs is None else _padded(log_probs, counts, own)
    return (
        torch.from_numpy(pieces.astype(np.int64)),
        torch.from_numpy(probs),
        None if log_probs is None else torch.from_numpy(log_probs),
        None if own is None else torch.from_numpy(own),
    )


def _joined(rows: list[dict[str, Array]], name: str, dtype: Any, inner: tuple[int, ...]) -> Array:
    """Return the rows of all sentences as one array (a copy, so that it may be written to)."""
    if not rows:
        return np.zeros((0, *inner), dtype)
    return np.concatenate([row[name] for row in rows])


def _padded(entries: Array, counts: Array, own: Array) -> Array:
    """Return (E) entries of tokens as (N, K), tokens with fewer repeating their first."""
    padded = np.empty(own.shape, entries.dtype)
    padded[:] = entries[np.cumsum(counts, dtype=np.int64) - counts][:, None]
    padded[own] = entries
    return padded


def _row_sums(values: Tensor, own: Tensor | None) -> Tensor:
    """Return (N) sums over the entries that are a token's own."""
    return values.sum(-1) if own is None else (values * own).sum(-1)


def _tail_log_shift(
    tail_log_mean: Tensor, log_prior: Tensor, pieces: Tensor, own: Tensor | None
) -> Tensor:
    """Return (N) the shift that gives the prior's tail the mean that ℓ̄'s has."""
    inside = _row_sums(log_prior.index_select(0, pieces.flatten()).view_as(pieces), own)
    kept = torch.tensor(pieces.shape[1]) if own is None else own.sum(-1)
    size = log_prior.shape[0] - kept
    mean = (log_prior.sum(dtype=torch.float64) - inside.double()) / size.clamp_min(1)
    return torch.where(size > 0, tail_log_mean - mean.float(), torch.zeros_like(tail_log_mean))
