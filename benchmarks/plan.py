"""What ``seqdistill plan`` predicts of small trainings, beside what they measure.

Each training runs in a fresh process: a student and M teachers of fairseq with random weights, the
fused loss, fairseq's Adam, float32, one process on the CPU. Memory is the resident set above what
a tiny training holds; seconds are CPU time. The rates of the machine are calibrated before and
again after each training (their mean is taken), because this machine is shared.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.common import (
    base_parser,
    environment,
    prepare,
    progress,
    provenance,
    refusals,
    text_table,
    write_results,
)
from benchmarks.timing import in_fresh_process
from seqdistill.planning import Assumptions, Plan, Training, machine, make_plan, text_size
from seqdistill.planning.calibration import calibrate

#: Of the trainings; sentences of 32 positions.
LENGTH = 32
CASES: dict[str, dict[str, int]] = {
    "large vocabulary": {"V": 40_000, "M": 3, "layers": 1, "width": 512, "ffn": 2048, "heads": 8,
                         "sentences": 8},
    "in between": {"V": 20_000, "M": 2, "layers": 2, "width": 256, "ffn": 1024, "heads": 4,
                   "sentences": 16},
    "many layers": {"V": 4_000, "M": 2, "layers": 6, "width": 256, "ffn": 1024, "heads": 4,
                    "sentences": 64},
    "many members": {"V": 10_000, "M": 8, "layers": 2, "width": 256, "ffn": 1024, "heads": 4,
                     "sentences": 32},
}  # fmt: skip

#: Parts of an update that are measured.
TIMED = ("student forward", "student backward", "teachers", "fused loss", "optimizer")


def planned(case: dict[str, int]) -> Plan:
    """Return the plan of a case on this machine, as it is calibrated now."""
    size = text_size(case["layers"], case["width"], case["ffn"], case["heads"])
    assumptions = Assumptions(framework_gib=0.0, fragmentation=0.0)
    device, assumptions = calibrate(machine("cpu"), assumptions)
    return make_plan(
        Training(
            size,
            size,
            case["M"],
            case["V"],
            case["sentences"] * LENGTH,
            LENGTH,
            LENGTH,
            device,
            precision="float32",
            teacher_precision="float32",
            assumptions=assumptions,
        )
    )


def measure(case: dict[str, int], updates: int, threads: int) -> dict[str, Any]:
    """Return what a training measures, and what is predicted of it."""
    before = planned(case)
    found = in_fresh_process(
        "benchmarks.plan_run", {**case, "length": LENGTH, "updates": updates}, threads
    )
    after = planned(case)
    parts = {
        part: {
            "measured": found["seconds"][part],
            "predicted": (before.times.parts[part] + after.times.parts[part]) / 2,
        }
        for part in TIMED
    }
    whole = {side: sum(part[side] for part in parts.values()) for side in ("measured", "predicted")}
    return {
        **case,
        "length": LENGTH,
        "peak_bytes": {"measured": found["peak_bytes"], "predicted": before.memory.total},
        "measured_as": found["measured_as"],
        "phase": before.memory.phase,
        "seconds": {**parts, "update": whole},
    }


def flat_rows(cases: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a figure."""
    rows = []
    for name, case in cases.items():
        figures = {"peak_bytes": case["peak_bytes"], **case["seconds"]}
        for what, pair in figures.items():
            ratio = pair["predicted"] / pair["measured"]
            rows.append({"case": name, "what": what, **pair, "predicted_over_measured": ratio})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = base_parser("plan", __doc__ or "", "python -m benchmarks.plan --updates 5")
    parser.add_argument("--updates", type=int, default=4, help="of each training (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one small case: does it work")
    given = parser.parse_args(arguments)
    with refusals(parser):
        stem = prepare(given, "plan-quick" if given.quick else "plan")
        # Freed memory goes back to the system, so that what is resident is what tensors hold.
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
        called = sys.argv if arguments is None else ["benchmarks.plan", *arguments]
        record = environment("cpu", ["python", "-m", "benchmarks.plan", *called[1:]])
        chosen = {"quick": replace_sizes(CASES["in between"])} if given.quick else CASES
        cases = {}
        for name, case in chosen.items():
            progress(name)
            cases[name] = measure(case, given.updates, given.threads)
        rows = flat_rows(cases)
        print(table(rows))
        print(provenance(record))
        write_results(stem, {**record, "cases": cases}, rows)
    return 0


def replace_sizes(case: dict[str, int]) -> dict[str, int]:
    """Return a case that runs in seconds."""
    return {**case, "V": 500, "width": 64, "ffn": 128, "layers": 1}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return predicted over measured, a line a case."""
    whats = list(dict.fromkeys(row["what"] for row in rows))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        cells.setdefault(row["case"], {})[row["what"]] = f"{row['predicted_over_measured']:.2f}"
    lines = [[name, *(found[what] for what in whats)] for name, found in cells.items()]
    return text_table(["predicted / measured", *whats], lines)


if __name__ == "__main__":
    sys.exit(main())
