"""What the benchmarks share: where a figure comes from, and how it is written and shown."""

import argparse
import csv
import io
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from seqdistill.errors import InputError
from seqdistill.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"

#: Of the files that the benchmarks write.
SCHEMA_VERSION = 1

_PACKAGES = ("numpy", "seqdistill", "fairseq-fixed", "triton")

# Colour-blind safe (Okabe & Ito 2008); the baseline is grey wherever it is drawn.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
BASELINE_COLOUR = "#888888"


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def environment(device: str, command: Sequence[str]) -> dict[str, Any]:
    """Return what a figure depends on beside its settings.

    Args:
        device: ``cpu`` or ``cuda``.
        command: as it was called.
    """
    return {
        "command": " ".join(command),
        "commit": _commit(),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(_memory_field("MemTotal") / 2**30, 1),
            "accelerator": torch.cuda.get_device_name() if device == "cuda" else None,
            # How busy the machine was: figures of a busy one are not to be kept.
            "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
        },
        "versions": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "torch": torch.__version__,
            **{package: _version(package) for package in _PACKAGES},
            "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "threads": torch.get_num_threads(),
        "device": device,
    }


def available_bytes(device: str = "cpu") -> int:
    """Return the memory that is free for a benchmark."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return _memory_field("MemAvailable")


def base_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has.

    Args:
        name: of the module below ``benchmarks`` and of the files that it writes.
        description: what is measured.
        example: a command, shown at the end of the help.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="DIR", help="where results go (%(default)s)"
    )
    parser.add_argument("--name", help=f"of the files written (default: {name} and the settings)")
    parser.add_argument("--overwrite", action="store_true", help="replace results of that name")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random inputs (%(default)s)")
    return parser


@contextmanager
def refusals(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turn an :class:`InputError` of the block into a message and exit status 1."""
    try:
        yield
    except InputError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")


def prepare(given: argparse.Namespace, name: str) -> Path:
    """Set the threads and return the stem of the files to write, before anything is measured.

    Raises:
        InputError: results of that name exist, or the device does not.
    """
    if given.threads < 1:
        raise InputError(f"expected at least 1 thread, got {given.threads}")
    torch.set_num_threads(given.threads)
    if getattr(given, "device", "cpu") == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; leave the option out")
    stem: Path = given.output / (given.name or name)
    existing = [path for end in (".json", ".csv", ".svg") if (path := _with(stem, end)).exists()]
    if existing and not given.overwrite:
        raise InputError(f"{existing[0]} exists already; pass --overwrite or another --name")
    return stem


def write_results(
    stem: Path, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], figure: Any = None
) -> None:
    """Write ``stem``.json, .csv and .svg, each whole or not at all.

    Args:
        stem: path without an ending.
        record: everything, as JSON.
        rows: the figures of the record as a flat table; the columns are those of all rows.
        figure: a matplotlib figure, or None.
    """
    with atomic_write(_with(stem, ".json")) as handle:
        json.dump(
            {"schema_version": SCHEMA_VERSION, **record}, handle, indent=1, ensure_ascii=False
        )
        handle.write("\n")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with atomic_write(_with(stem, ".csv")) as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if figure is not None:
        drawing = io.BytesIO()
        figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
        with atomic_write(_with(stem, ".svg"), binary=True) as handle:
            handle.write(drawing.getvalue())
    progress(f"written: {stem}.json, .csv" + ("" if figure is None else ", .svg"))


def new_figure(columns: int, rows: int = 1, size: tuple[float, float] = (5.0, 3.6)) -> Any:
    """Return a matplotlib figure and its axes, (rows, columns), drawn without pyplot.

    Args:
        columns: of axes.
        rows: of axes.
        size: of one pair of axes, in inches.

    Raises:
        InputError: matplotlib is missing.
    """
    # Importing fairseq makes every library's debugging messages heard.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('plots need matplotlib: pip install "seqdistill[report]"') from error
    # The same numbers give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "seqdistill", "svg.fonttype": "none"})
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.grid(color="#dddddd", linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of aligned columns, the first to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    shown = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([shown[0], "-" * max(len(line) for line in shown), *shown[1:]])


def provenance(record: Mapping[str, Any]) -> str:
    """Return the line that stands below every table."""
    hardware, versions = record["hardware"], record["versions"]
    machine = hardware["accelerator"] or f"{hardware['processor']}, {hardware['cores']} cores"
    return (
        f"commit {record['commit']}; {machine}; {record['threads']} thread(s); torch "
        f"{versions['torch']} ({versions['torch_cpu_capability']}); Python {versions['python']}; "
        f"load average at start {hardware['load_average_at_start'][0]}\n{record['command']}"
    )


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with ``-dirty`` where tracked files differ; None without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12",
             "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_field(name: str) -> int:
    """A field of /proc/meminfo in bytes; the physical memory where there is no such file."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
