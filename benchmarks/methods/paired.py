"""Every method beside one of them, on the same resampled sentences, seed by seed.

The sentences are few and the same for all, so two intervals that overlap say little: most of their
width is the choice of sentences, which a difference on the same sentences does not have.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.methods.method import Bench, Run
from benchmarks.methods.samples import Sampled, of_run
from benchmarks.methods.table import Row
from recipes.common.work import WorkFolder
from seqdistill.assessment.bootstrap import estimate

PREFIX = "minus:"
"""Of the metrics that are differences."""


def difference_rows(
    bench: Bench, work: WorkFolder, found: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> list[Row]:
    """Return the rows of every method less the bench's ``against``, over the seeds of both.

    A baseline has no seed and is compared with every one. The interval is over test sentences, of
    the mean over seeds; how much runs differ between seeds is not in it.

    Args:
        bench: the methods; none of them is compared if ``against`` is not set.
        work: its folder.
        found: results by the run's name.
        seeds: those that may be there.
    """
    against = bench.against
    done = [seed for seed in seeds if against and Run(against, seed).name in found]
    if against is None or not done:
        return []
    sampled = {seed: _sampled(work, Run(against, seed), found) for seed in done}
    rows: list[Row] = []
    for name in (*bench.baselines, *bench.methods):
        if name == against:
            continue
        is_baseline = name in bench.baselines
        pairs: list[tuple[dict[str, Sampled], dict[str, Sampled]]] = []
        own = [seed for seed in done if is_baseline or Run(name, seed).name in found]
        if is_baseline and Run(name, None).name not in found:
            continue
        for seed in own:
            run = Run(name, None if is_baseline else seed)
            pairs.append((_sampled(work, run, found), sampled[seed]))
        label = bench.methods[name].label if not is_baseline else _label(found[name], name)
        common = [set(ours) & set(theirs) for ours, theirs in pairs]
        for metric in sorted(set.intersection(*common)) if common else []:
            value = float(np.mean([a[metric].value - b[metric].value for a, b in pairs]))
            drawn = np.mean([a[metric].replicates - b[metric].replicates for a, b in pairs], axis=0)
            ends = estimate(value, drawn)
            rows.append(
                Row(
                    name,
                    label,
                    PREFIX + metric,
                    () if is_baseline else tuple(own),
                    len(own),
                    value,
                    bootstrap_low=ends.low,
                    bootstrap_high=ends.high,
                )
            )
    return rows


def _sampled(
    work: WorkFolder, run: Run, found: Mapping[str, Mapping[str, Any]]
) -> dict[str, Sampled]:
    metrics = found[run.name]["metrics"]
    return of_run(work, run, {name: one["value"] for name, one in metrics.items()})


def _label(results: Mapping[str, Any], name: str) -> str:
    return str(results["recipe"]["systems"][name]["label"])
