"""What is in a store, in numbers."""

from dataclasses import asdict
from typing import Any

import numpy as np

from seqdistill.targets.store.files import Array
from seqdistill.targets.store.reader import TargetStore, store_files
from seqdistill.targets.store.shards import Shard

#: Of more tokens than this, evenly spread ones stand for all.
_MOST_TOKENS = 4_000_000
_QUANTILES = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def describe(store: TargetStore) -> dict[str, Any]:
    """Return size, settings and statistics of a store, as JSON keeps them.

    Returns:
        ``sentences``, ``left_out``, ``tokens``, ``shards``, ``bytes``, ``bytes_per_token``;
        ``pieces_per_token`` and ``tail_mass`` with mean, min, median, p90, p99 and max; means of
        the uncertainties in nats; ``teachers``, ``settings``, ``fingerprint`` and ``made_by``.
    """
    stride = -(-store.tokens // _MOST_TOKENS)
    columns, counts = _read(store, stride)
    total = sum(entry["bytes"] for entry in store_files(store.manifest))
    mi, rmi = columns["mutual_information"].mean(), columns["reverse_mutual_information"].mean()
    return {
        "folder": str(store.folder),
        "sentences": store.sentences,
        "left_out": store.manifest["left_out"],
        "tokens": store.tokens,
        "shards": store.plan.shards,
        "bytes": total,
        "bytes_per_token": total / store.tokens,
        "pieces_per_token": _summary(counts),
        "tail_mass": _summary(columns["tail_mass"]),
        "mean_total_uncertainty": float(columns["total_uncertainty"].mean()),
        "mean_mutual_information": float(mi),
        "mean_epkl": float(mi + rmi),
        "mean_reverse_mutual_information": float(rmi),
        "teachers": [teacher.name for teacher in store.plan.fingerprint.teachers],
        "settings": asdict(store.plan.settings),
        "fingerprint": store.plan.fingerprint.to_dict(),
        "made_by": dict(store.plan.made_by),
    }


def size_text(size: int) -> str:
    """Return a number of bytes as people read it.

    Example:
        >>> size_text(118_341_272)
        '118.3 MB'
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def _read(store: TargetStore, stride: int) -> tuple[dict[str, Array], Array]:
    """Return the tokens' columns in float64, and their numbers of pieces."""
    settings = store.plan.settings
    shards: list[Shard] = []
    for index in range(store.plan.shards):
        shard = store.shard(index * settings.shard_sentences)
        if shard.tokens:
            shards.append(shard)
    scalars = np.concatenate([shard.arrays["scalars"][::stride] for shard in shards])
    columns = dict(zip(settings.columns, scalars.astype(np.float64).T, strict=True))
    if settings.is_adaptive:
        return columns, np.concatenate([shard.arrays["counts"][::stride] for shard in shards])
    return columns, np.full(len(scalars), settings.widest)


def _summary(values: Array) -> dict[str, float]:
    summary = {"mean": float(values.mean())}
    return summary | {name: float(np.quantile(values, q)) for name, q in _QUANTILES.items()}
