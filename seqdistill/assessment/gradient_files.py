"""The file that holds gradients by rank, ``gradients.json``: written and read."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Estimate
from seqdistill.assessment.gradients import GradientProfile, RankBins
from seqdistill.errors import InputError

SCHEMA = "seqdistill.gradients/1"


def profile_to_dict(profile: GradientProfile) -> dict[str, Any]:
    """Return what ``gradients.json`` holds; :func:`read_gradients` is its inverse."""
    return {
        "schema": SCHEMA,
        "sentences": profile.sentences,
        "tokens": profile.tokens,
        "origin": profile.origin,
        "bins": [list(pair) for pair in _pairs(profile.bins)],
        "losses": {
            name: {**settings, "signature": profile.signatures[name]}
            for name, settings in profile.settings.items()
        },
        "gradients": {
            student: {
                loss: {
                    "mean_absolute": [asdict(e) for e in means],
                    "share_from": _estimates(profile.shares[student][loss]),
                }
                for loss, means in losses.items()
            }
            for student, losses in profile.means.items()
        },
    }


def read_gradients(path: str | Path) -> GradientProfile:
    """Read a file of ``seqdistill gradients``.

    Raises:
        InputError: no such file, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected what `seqdistill gradients` wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: expected the schema {SCHEMA}, got {schema!r}")
    try:
        profile = _from_dict(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged, {type(error).__name__} {error}; run `seqdistill gradients` again"
        ) from error
    return profile


def _from_dict(content: Mapping[str, Any]) -> GradientProfile:
    pairs = np.array(content["bins"], dtype=np.int64)
    bins = RankBins(pairs[:, 0], pairs[:, 1])
    means: dict[str, dict[str, list[Estimate]]] = {}
    shares: dict[str, dict[str, list[Estimate] | None]] = {}
    for student, losses in content["gradients"].items():
        for name in content["losses"]:
            found = losses[name]
            mean, share = found["mean_absolute"], found["share_from"]
            for column in (mean, share):
                if column is not None and len(column) != len(pairs):
                    raise ValueError(f"{student}, {name}: {len(column)} bins, not {len(pairs)}")
            means.setdefault(student, {})[name] = [Estimate(**e) for e in mean]
            shares.setdefault(student, {})[name] = share and [Estimate(**e) for e in share]
    return GradientProfile(
        bins,
        means,
        shares,
        {n: {k: v for k, v in s.items() if k != "signature"} for n, s in content["losses"].items()},
        {name: settings["signature"] for name, settings in content["losses"].items()},
        int(content["sentences"]),
        int(content["tokens"]),
        dict(content["origin"]),
    )


def _pairs(bins: RankBins) -> list[tuple[int, int]]:
    return list(zip(bins.first.tolist(), bins.last.tolist(), strict=True))


def _estimates(values: list[Estimate] | None) -> list[dict[str, Any]] | None:
    return None if values is None else [asdict(e) for e in values]
