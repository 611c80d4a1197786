"""Every method beside one of them, on the same resampled sentences, seed by seed.

The sentences are few and the same for all, so two intervals that overlap say little: most of their
width is the choice of sentences, which a difference on the same sentences does not have.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.methods.archive import RunResults
from benchmarks.methods.method import Bench, Run
from benchmarks.methods.table import Row
from seqdistill.assessment.bootstrap import estimate

PREFIX = "minus:"
"""Of the metrics that are differences."""


def difference_rows(
    bench: Bench, found: Mapping[str, RunResults], seeds: Sequence[int]
) -> list[Row]:
    """Return the rows of every method less the bench's ``against``, over the seeds of both.

    A baseline has no seed and is compared with every one. The interval is over test sentences, of
    the mean over seeds; how much runs differ between seeds is not in it.

    Args:
        bench: the methods; none of them is compared if ``against`` is not set.
        found: results by the run's name.
        seeds: those that may be there.
    """
    against = bench.against
    done = [seed for seed in seeds if against and Run(against, seed).name in found]
    if against is None:
        return []
    rows: list[Row] = []
    for name in (*bench.baselines, *bench.methods):
        if name == against:
            continue
        is_baseline = name in bench.baselines
        runs = {seed: Run(name, None if is_baseline else seed).name for seed in done}
        own = [seed for seed in done if runs[seed] in found]
        if not own:
            continue
        pairs = [
            (found[runs[seed]].sampled, found[Run(against, seed).name].sampled) for seed in own
        ]
        label = found[name].facts["label"] if is_baseline else bench.methods[name].label
        common = [set(ours) & set(theirs) for ours, theirs in pairs]
        for metric in sorted(set.intersection(*common)):
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
