"""From the results of runs to the rows of the comparison: means over seeds, with intervals."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.methods.archive import Archive, RunResults, read_results
from benchmarks.methods.method import Bench, Run, expected_seeds, runs_named
from benchmarks.methods.runs import run_folder
from recipes.common.work import WorkFolder
from seqdistill.errors import InputError
from seqdistill.files import atomic_write

RUNS = "runs"
"""The metric that every method has: how many of its runs are done."""

# Two-sided 95 % points of Student's t with 1, 2, … degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL95 = 1.960


@dataclass(frozen=True)
class Row:
    """One number of one method.

    Attributes:
        method: its name, or a baseline's.
        label: what tables call it.
        metric: ``bleu``, ``auroc:total_uncertainty:news``, …; ``runs`` counts those that are done.
        seeds: those that are in the number; empty for a baseline.
        expected: how many runs the method is to have.
        value: mean over seeds.
        seeds_low, seeds_high: 95 % interval of the mean over seeds (Student's t); None below two.
        bootstrap_low, bootstrap_high: 95 % interval over test sentences, of one run: the mean of
            the runs' ends; None where the number has none.
    """

    method: str
    label: str
    metric: str
    seeds: tuple[int, ...]
    expected: int
    value: float
    seeds_low: float | None = None
    seeds_high: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None


def collect(
    bench: Bench,
    work: WorkFolder,
    archive: Archive | None = None,
    settings: Mapping[str, str] | None = None,
) -> dict[str, RunResults]:
    """Return the results of every run that is done, by the run's name.

    Those of the archive that would be made in another way now are left away, and so are runs of the
    work folder with another number of updates than the bench's.

    Args:
        bench: the methods.
        work: its folder.
        archive: where more results are; they come first.
        settings: how the runs are made, by name: those of the archive that may be taken.
    """
    names = {*bench.baselines, *(settings or {})}
    names |= {path.name for path in (work.root / "runs").glob("*-seed*")}
    found = {}
    for run in runs_named(bench, sorted(names)):
        results = None
        if archive is not None and settings and run.name in settings:
            results = archive.find(run.name, settings[run.name])
        if results is None:
            folder = run_folder(work, run)
            results = read_results(folder.results, folder.samples)
            if results and run.seed is not None and results.content["updates"] != bench.updates:
                results = None
        if results is not None:
            found[run.name] = results
    return found


def seeds_found(bench: Bench, found: Iterable[str]) -> list[int]:
    """Return the bench's seeds and others that runs have, by their names."""
    seeds = (run.seed for run in runs_named(bench, found))
    return sorted({*bench.seeds, *(seed for seed in seeds if seed is not None)})


def aggregate(bench: Bench, found: Mapping[str, RunResults], seeds: Sequence[int]) -> (
    list[Row]
):  # fmt: skip
    """Return the rows of the comparison; methods without a run have a count of 0 alone.

    Args:
        bench: the methods.
        found: results by the run's name.
        seeds: those that may be there.
    """
    rows: list[Row] = []
    for name in (*bench.baselines, *bench.methods):
        is_baseline = name in bench.baselines
        runs = [Run(name, None)] if is_baseline else [Run(name, seed) for seed in seeds]
        done = [run for run in runs if run.name in found]
        expected = 1 if is_baseline else len(expected_seeds(bench, name))
        label = name if is_baseline else bench.methods[name].label
        if done and is_baseline:
            label = found[name].facts["label"]
        given = tuple(run.seed for run in done if run.seed is not None)
        rows.append(Row(name, label, RUNS, given, expected, float(len(done))))
        metrics = [found[run.name].metrics for run in done]
        for metric in dict.fromkeys(metric for one in metrics for metric in one):
            values = [one[metric] for one in metrics if metric in one]
            if len(values) == len(metrics):  # a mean over some of the seeds is another number
                numbers = [value.value for value in values]
                ends = (
                    *interval(numbers),
                    _mean([value.low for value in values]),
                    _mean([value.high for value in values]),
                )
                mean = sum(numbers) / len(numbers)
                rows.append(Row(name, label, metric, given, expected, mean, *ends))
    return rows


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a mean by Student's t; None for fewer than two values.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    n = len(values)
    if n < 2:
        return None, None
    mean = sum(values) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    t = _T95[n - 2] if n - 2 < len(_T95) else _NORMAL95
    half = t * deviation / math.sqrt(n)
    return mean - half, mean + half


def _mean(ends: Sequence[float | None]) -> float | None:
    """Return the mean of ends of intervals, None where one is missing."""
    there = [end for end in ends if end is not None]
    return sum(there) / len(there) if len(there) == len(ends) else None


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV; numbers in full, so that tables made of the file are those of the rows."""
    with atomic_write(path) as handle:
        writer = csv.DictWriter(handle, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = asdict(row) | {"seeds": " ".join(map(str, row.seeds))}
            writer.writerow(
                {k: repr(float(v)) if isinstance(v, float) else v for k, v in values.items()}
            )


def read_rows(path: Path) -> list[Row]:
    """Read rows of a CSV file that :func:`write_rows` wrote.

    Raises:
        InputError: the file has other columns.
    """
    names = [field.name for field in fields(Row)]
    with open(path, encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        if reader.fieldnames != names:
            raise InputError(f"{path}: expected the columns {', '.join(names)}")
        return [_row(values) for values in reader]


def _row(values: Mapping[str, str]) -> Row:
    ends = [float(values[name]) if values[name] else None for name in _ENDS]
    return Row(
        values["method"],
        values["label"],
        values["metric"],
        tuple(int(seed) for seed in values["seeds"].split()),
        int(values["expected"]),
        float(values["value"]),
        *ends,
    )


_ENDS = ("seeds_low", "seeds_high", "bootstrap_low", "bootstrap_high")
