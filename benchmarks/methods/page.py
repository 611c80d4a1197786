"""The comparison as Markdown, from the rows of its CSV alone."""

import re
from collections.abc import Mapping, Sequence

from benchmarks.methods.paired import PREFIX
from benchmarks.methods.table import RUNS, Row
from seqdistill.errors import InputError
from seqdistill.report.tables import format_table, symbol_of

NONE = "–"

_NAMES = {
    "bleu": ("BLEU", 1),
    "chrf": ("chrF2", 1),
    "wer": ("WER", 1),
    "cer": ("CER", 1),
    "nll": ("NLL", 3),
    "ece": ("ECE", 2),
    "kl": ("KL", 3),
    "agreement": ("same top piece", 1),
    "store_cpu_minutes": ("stores, CPU min", 1),
    "train_cpu_minutes": ("training, CPU min", 1),
    "train_wall_minutes": ("training, wall min", 1),
    "train_peak_gib": ("training, peak GiB", 2),
    "decode_cpu_ms": ("decoding, CPU ms a sentence", 0),
    "decode_wall_ms": ("decoding, wall ms a sentence", 0),
    "decode_peak_gib": ("decoding, peak GiB", 2),
}
_QUALITY = ("bleu", "chrf", "wer", "cer", "nll", "ece")
_LIKENESS = ("kl", "agreement", "rho")
_COSTS = tuple(name for name in _NAMES if name.endswith(("_minutes", "_gib", "_ms")))

NOTE = """\
Means over seeds. `a ± b`: b is half the 95 % interval of the mean over seeds (Student's t);
`a [b, c]`, of one run: the 95 % bootstrap interval over test sentences (chrF2 has none). ↑ higher
is better, ↓ lower. NLL (nats a token) and ECE (%) along the references of the test set; AUROC (mean
over the out-of-domain sets) and PRR in %. Runs: those that are done, and of how many where some are
missing."""

LIKENESS = """\
Along the references of the test set: KL(p_ensemble‖p), nats a token; how often both find the same
piece the most probable, %; and ρ, Spearman's rank correlation of the tokens' uncertainty with the
ensemble's."""


DIFFERENCES = """\
Each method less the one that all are compared with, on the same resampled test sentences (paired
bootstrap, 95 %), the mean over the seeds that both have; **bold** where the interval leaves 0 out.
How much runs differ from seed to seed is not in it: the table above has that."""


def markdown_tables(rows: Sequence[Row]) -> dict[str, str]:
    """Return the tables by name.

    They are ``summary``, ``likeness``, ``differences``, ``costs`` and one of sets a measure.
    """
    table = by_method(rows)
    metrics = list(dict.fromkeys(row.metric for row in rows))
    minus = [metric for metric in metrics if metric.startswith(PREFIX)]
    means = [m for m in metrics if m.endswith(":mean") and m not in minus]
    rejection = [metric for metric in metrics if metric.startswith("prr:")]
    quality = [name for name in _QUALITY if name in metrics]
    likeness = [metric for metric in metrics if metric.partition(":")[0] in _LIKENESS]
    tables = {
        "summary": _table(table, [*quality, *means, *rejection], with_runs=True),
        "likeness": _table(table, likeness),
        "differences": _differences(table, minus),
        "costs": _table(table, [name for name in _COSTS if name in metrics]),
    }
    for mean in means:
        measure = mean.split(":")[1]
        sets = [m for m in metrics if m.startswith(f"auroc:{measure}:") and m != mean]
        tables[measure] = _table(table, sets, sets=True)
    return tables


def markdown_page(title: str, rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Return the whole page.

    Args:
        title: of the page.
        rows: of the comparison.
        facts: what has to be known to redo it: name → text.
    """
    tables = markdown_tables(rows)
    parts = [f"# {title}", tables.pop("summary"), NOTE]
    parts += ["## Likeness to the ensemble", tables.pop("likeness"), LIKENESS]
    parts += ["## Costs", tables.pop("costs")]
    differences = tables.pop("differences")
    if differences:
        parts[3:3] = ["## Beside the method of this project", differences, DIFFERENCES]
    for measure, table in tables.items():
        parts += [f"## AUROC of {symbol_of(measure)} ({measure}) by set", table]
    parts += ["## How it was made", "\n".join(f"- {k}: {v}" for k, v in facts.items() if v)]
    return "\n\n".join(parts) + "\n"


def fill_page(text: str, tables: Mapping[str, str], bench: str = "methods") -> str:
    """Return a page whose places for tables, ``<!-- BENCH: NAME -->``, have them.

    Args:
        text: of the page; a table that follows such a place is replaced.
        tables: by name.
        bench: whose they are: the name of its file. Places of another's tables stay as they are.

    Raises:
        InputError: there is no such table.
    """

    def table(match: re.Match[str]) -> str:
        if match[2] not in tables:
            known = ", ".join(tables)
            raise InputError(f"unknown table {match[2]}; there are {known}")
        return f"{match[1]}\n{tables[match[2]]}\n"

    place = rf"(<!-- {re.escape(bench)}: (\w+) -->\n)(?:\n?(?:\|.*\n)+)?"
    return re.sub(place, table, text)


def _table(
    table: Mapping[str, Mapping[str, Row]],
    metrics: Sequence[str],
    *,
    with_runs: bool = False,
    sets: bool = False,
) -> str:
    header = ["method", *(["runs"] if with_runs else [])]
    header += [metric.split(":")[2] if sets else heading(metric) for metric in metrics]
    lines = []
    for found in table.values():
        runs = found[RUNS]
        if not (with_runs or runs.value):  # the summary says that it has not been run
            continue
        count = str(int(runs.value))
        if runs.value < runs.expected:
            count += f" of {runs.expected}"
        cells = [_cell(found.get(metric), _digits(metric)) for metric in metrics]
        if not with_runs and set(cells) == {NONE}:
            continue
        lines.append([runs.label, *([count] if with_runs else []), *cells])
    return format_table(header, lines, "markdown")


def _differences(table: Mapping[str, Mapping[str, Row]], metrics: Sequence[str]) -> str:
    """Return the table of differences, empty where nothing is compared."""
    if not metrics:
        return ""
    order = ("bleu", "wer", "nll", "auroc", "prr")
    names = sorted(
        (metric.removeprefix(PREFIX) for metric in metrics),
        key=lambda name: order.index(name.partition(":")[0]),
    )
    lines = [
        [found[RUNS].label, *(_gap(found.get(PREFIX + name), _digits(name)) for name in names)]
        for found in table.values()
        if any(PREFIX + name in found for name in names)
    ]
    return format_table(["method", *map(heading, names)], lines, "markdown")


def _gap(row: Row | None, digits: int) -> str:
    if row is None:
        return NONE
    low, high = row.bootstrap_low, row.bootstrap_high
    value = f"{row.value:+.{digits}f}"
    if low is None or high is None:
        return value
    shown = f"{value} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{shown}**" if low > 0 or high < 0 else shown


def heading(metric: str) -> str:
    """Return what a table calls a metric: ``BLEU ↑``, ``AUROC TU ↑``."""
    kind, _, rest = metric.partition(":")
    if not rest:
        return f"{_NAMES[metric][0]} {'↑' if higher_is_better(metric) else '↓'}"
    return f"{'ρ' if kind == 'rho' else kind.upper()} {symbol_of(rest.split(':')[0])} ↑"


def higher_is_better(metric: str) -> bool:
    """Whether a larger number is the better one."""
    return metric.partition(":")[0] in ("bleu", "chrf", "agreement", "rho", "auroc", "prr")


def _digits(metric: str) -> int:
    if metric in _NAMES:
        return _NAMES[metric][1]
    return 3 if metric.startswith("rho:") else 1


def _cell(row: Row | None, digits: int) -> str:
    if row is None:
        return NONE
    value = f"{row.value:.{digits}f}"
    if row.seeds_low is not None:
        return f"{value} ± {row.value - row.seeds_low:.{digits}f}"
    if row.bootstrap_low is None or row.bootstrap_high is None:
        return value
    return f"{value} [{row.bootstrap_low:.{digits}f}, {row.bootstrap_high:.{digits}f}]"


def by_method(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return rows by method and metric, in their order."""
    table: dict[str, dict[str, Row]] = {}
    for row in rows:
        table.setdefault(row.method, {})[row.metric] = row
    return table
