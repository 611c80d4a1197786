"""The section of the report on gradients by the rank of a class."""

from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Estimate
from seqdistill.assessment.gradients import GradientProfile
from seqdistill.report import plots

#: Loss → its name on the page; others are called as they are.
LABELS = {
    "proxy_dirichlet": "Proxy-Dirichlet, reverse KL",
    "proxy_dirichlet_forward": "Proxy-Dirichlet, forward KL",
    "end2": "EnD²",
    "mean_kl": "EnD",
}
_COLUMNS = (10, 100, 1000, 10_000)  # ranks from which on the table says what share there is


def gradients_section(profile: GradientProfile) -> dict[str, Any]:
    """Return plots, a table of shares and signatures for the page."""
    names = list(profile.settings)
    V = int(profile.bins.last[-1])
    columns = [rank for rank in _COLUMNS if rank <= V]
    places = [int(np.flatnonzero(profile.bins.first == rank)[0]) for rank in columns]
    groups = []
    for student, losses in profile.shares.items():
        rows = []
        for index, name in enumerate(names):
            share = losses[name]
            cells = [None if share is None else _percent(share[k]) for k in places]
            rows.append({"name": _label(name), "series": index % plots.SERIES, "cells": cells})
        groups.append({"name": student, "rows": rows})
    return {
        "losses": [
            {"name": _label(name), "series": index % plots.SERIES}
            for index, name in enumerate(names)
        ],
        "panels": [
            {
                "title": student,
                "svg": plots.rank_plot(
                    profile.bins.first,
                    profile.bins.last,
                    [losses[name] for name in names],
                    key=f"grad{number}",
                ),
            }
            for number, (student, losses) in enumerate(profile.means.items())
        ],
        "columns": [f"{rank:,}" for rank in columns],
        "groups": groups,
        "classes": V,
        "sentences": profile.sentences,
        "tokens": profile.tokens,
        "members": len(profile.origin.get("teachers", ())),
        "data": profile.origin.get("data", "a text"),
        "has_intervals": any(
            e.low is not None for losses in profile.means.values() for e in losses[names[0]]
        ),
        "signatures": {"gradients": list(profile.signatures.values())},
    }


def _label(loss: str) -> str:
    return LABELS.get(loss, loss)


def _percent(share: Estimate) -> dict[str, str | None]:
    interval = None
    if share.low is not None and share.high is not None:
        interval = f"{100 * share.low:.1f}–{100 * share.high:.1f}"
    return {"value": f"{100 * share.value:.1f}", "interval": interval}
