"""Time and memory of a beam search that measures uncertainty, against one that does not.

Sides: ``plain``, fairseq's own search; ``measures``, ours with every measure that an ensemble has,
PE and EP, and of a student with every closed form; ``second_pass``, the public research code's way:
the hypotheses go through every model once more, all members stacked. Models are one Dirichlet
student, and ensembles of M; fairseq transformers (the base model) with random weights, beam 5,
every hypothesis of the same length. All sides take turns; ratios are those of medians of CPU time.
Peak memory is that of a fresh process; ``states`` is that of the decoders' steps alone, which grows
with M in every search.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.common import (
    BASELINE_COLOUR,
    COLOURS,
    base_parser,
    environment,
    new_figure,
    prepare,
    progress,
    provenance,
    refusals,
    text_table,
    write_results,
)
from benchmarks.decoding_sides import MEANINGS, STATES, STATES_MEANING, Decoding
from benchmarks.models import Architecture
from benchmarks.timing import in_fresh_process, interleaved
from seqdistill.errors import InputError

_STUDENT_TIME, _STUDENT_MEMORY, _ENSEMBLE_TIME, _FLAT = 1.10, 1.05, 1.15, 1.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = base_parser("decoding", __doc__ or "", "python -m benchmarks.decoding --overwrite")
    parser.add_argument("--quick", action="store_true", help="tiny models: does it work")
    parser.add_argument("--rounds", type=int, help="of every side (5; 2 with --quick)")
    parser.add_argument("--vocabularies", type=int, nargs="+", metavar="V", help="(40000 4000)")
    parser.add_argument("--members", type=int, nargs="+", metavar="M",
                        help="ensembles, beside the student (5; memory also at 2)")  # fmt: skip
    parser.add_argument("--no-memory", action="store_true", help="times only")
    given = parser.parse_args(arguments)
    with refusals(parser):
        stem = prepare(given, "decoding" + ("-quick" if given.quick else ""))
        rounds = (2 if given.quick else 5) if given.rounds is None else given.rounds
        members = given.members or [5]
        if rounds < 1 or min(members) < 2:
            raise InputError("expected at least 1 round and at least 2 members")
        architecture = Architecture(1, 32, 64, 2) if given.quick else Architecture()
        shared = {
            "architecture": dataclasses.asdict(architecture),
            "B": 2 if given.quick else 8,
            "beam": 5,
            "length": 6 if given.quick else 24,
            "seed": given.seed,
        }
        vocabularies = given.vocabularies or ([200] if given.quick else [40_000, 4_000])
        command = ["python", "-m", "benchmarks.decoding", *(arguments or sys.argv[1:])]
        record = environment("cpu", command) | shared
        record |= {
            "what": "beam search",
            "meanings": MEANINGS | {STATES: STATES_MEANING},
            "rounds": rounds,
        }
        record["cells"] = [
            measure_time(shared | {"V": V, "M": M}, rounds)
            for V in vocabularies
            for M in (0, *members)
        ]
        # The memory of two members is what that of more is compared with.
        counts = sorted({0, 2, *members})
        sizes = [(V, M) for V in vocabularies for M in counts]
        record["memory"] = (
            [] if given.no_memory else list(measure_memory(shared, sizes, given.threads))
        )
        record["aims"] = list(aims(record))
        write_results(stem, record, flat_rows(record), draw(record))
    print(summary(record))
    return 0


def measure_time(settings: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Return the times of every side.

    Args:
        settings: see :meth:`Decoding.make`.
        rounds: of every side.
    """
    progress(f"{_name(settings)}, V = {settings['V']:,}")
    sides = Decoding.make(settings).sides()
    for call in sides.values():
        call()
    timings = interleaved(sides, rounds)
    return {
        "V": settings["V"],
        "M": settings["M"],
        "sides": {name: timing.record() for name, timing in timings.items()},
    }


def measure_memory(
    shared: Mapping[str, Any], sizes: Sequence[tuple[int, int]], threads: int
) -> Iterator[dict[str, Any]]:
    """Yield what every side needs at its peak, in a process of its own.

    Args:
        shared: settings that all have.
        sizes: (V, M).
        threads: of the processes.
    """
    for V, M in sizes:
        for side in (*MEANINGS, STATES):
            settings = {**shared, "V": V, "M": M, "side": side}
            found = in_fresh_process("benchmarks.decoding_memory", settings, threads)
            progress(
                f"{_name(settings)}, V = {V:,}, {side}: {found['peak_bytes'] / 1e6:,.0f} MB above "
                f"{found['held_bytes'] / 1e6:,.0f} MB"
            )
            yield {"V": V, "M": M, "side": side, **found}


def aims(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what was aimed at: bound, value, reached.

    Args:
        record: with ``cells`` and ``memory``.
    """
    for cell in record["cells"]:
        bound = _ENSEMBLE_TIME if cell["M"] else _STUDENT_TIME
        yield _aim(f"{_name(cell)}, V={cell['V']:,}: time", bound, _ratio(cell, "measures"))
    peaks = {(m["V"], m["M"], m["side"]): m for m in record["memory"]}
    for (V, M, side), found in peaks.items():
        if side != "measures":
            continue
        if M == 0:
            plain = peaks[V, M, "plain"]
            value = _whole(found) / _whole(plain)
            yield _aim(f"{_name(found)}, V={V:,}: peak memory", _STUDENT_MEMORY, value)
        elif M > 2:
            of_two, of_many = _beside(peaks, V, 2, side), _beside(peaks, V, M, side)
            value = of_many / of_two if of_two else math.inf if of_many else 0.0
            what = f"{_name(found)}, V={V:,}: memory beside models and states, times that of M = 2"
            yield _aim(what, _FLAT, value)


def flat_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per cell and side, for the CSV."""
    peaks = {(m["V"], m["M"], m["side"]): m for m in record["memory"]}
    rows = []
    for cell in record["cells"]:
        for name, side in cell["sides"].items():
            peak = peaks.get((cell["V"], cell["M"], name), {})
            rows.append(
                {
                    "models": _name(cell),
                    "V": cell["V"],
                    "M": cell["M"],
                    "side": name,
                    "cpu_seconds": side["cpu_seconds"],
                    "wall_seconds": side["wall_seconds"],
                    "times_plain": _ratio(cell, name),
                    "peak_bytes": peak.get("peak_bytes"),
                    "held_bytes": peak.get("held_bytes"),
                }
            )
    return rows


def summary(record: Mapping[str, Any]) -> str:
    """Return the tables."""
    rows = [
        (
            row["models"],
            f"{row['V']:,}",
            row["side"],
            f"{1e3 * row['cpu_seconds']:,.0f}",
            f"{row['times_plain']:.2f}",
            "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}",
        )
        for row in flat_rows(record)
    ]
    header = ("models", "V", "side", "CPU ms", "× plain", "MB beside the models")
    parts = [text_table(header, rows)]
    lines = [
        (aim["what"], f"≤ {aim['at_most']:g}", f"{aim['value']:.3g}",
         "reached" if aim["reached"] else "MISSED")
        for aim in record["aims"]
    ]  # fmt: skip
    parts.append(text_table(("aim", "bound", "found", ""), lines))
    return "\n\n".join([*parts, provenance(record)])


def draw(record: Mapping[str, Any]) -> Any:
    """Return the figure: times of every side over the plain search's."""
    cells = record["cells"]
    figure, axes = new_figure(len(cells), size=(3.0, 2.8))
    for one, cell in zip(axes[0], cells, strict=True):
        names = list(cell["sides"])
        colours = [BASELINE_COLOUR, *COLOURS]
        for place, name in enumerate(names):
            value = _ratio(cell, name)
            one.bar(place, value, color=colours[place])
            one.annotate(f"{value:.2f}", (place, value), ha="center", va="bottom")
        one.set_xticks(range(len(names)), names, fontsize=8)
        one.axhline(1.0, color="black", linewidth=0.8)
        one.set_title(f"{_name(cell)}, V = {cell['V']:,}", fontsize=10)
    axes[0][0].set_ylabel("time, × plain search")
    return figure


def _aim(what: str, bound: float, value: float) -> dict[str, Any]:
    return {"what": what, "at_most": bound, "value": value, "reached": value <= bound}


def _name(settings: Mapping[str, Any]) -> str:
    return f"ensemble of {settings['M']}" if settings["M"] else "student"


def _ratio(cell: Mapping[str, Any], name: str) -> float:
    return float(cell["sides"][name]["seconds"] / cell["sides"]["plain"]["seconds"])


def _beside(
    peaks: Mapping[tuple[int, int, str], Mapping[str, Any]], V: int, M: int, side: str
) -> float:
    """Return the bytes of a side's peak beside what the models hold while they decode.

    Next to nothing is nothing: two processes never peak at the same byte.
    """
    return max(0.0, float(peaks[V, M, side]["peak_bytes"] - peaks[V, M, STATES]["peak_bytes"]))


def _whole(found: Mapping[str, Any]) -> float:
    return float(found["peak_bytes"] + found["held_bytes"])


if __name__ == "__main__":
    sys.exit(main())
