"""Time and memory of the loss: this project against the research code and plain cross-entropy.

Scopes: S1, logits in: members' and student's logits are given → statistics, loss, gradient in the
logits. S2, features in, gradients out: the members' projections and the student's belong to it,
with dh and dW. Sides: (a) the research code's criterion, (b) plain cross-entropy through the same
projection, (c) the matrix products alone, and ours by backend and precision of the products, with
members online or from a stored target. All sides of a cell take turns in every round; ratios are
those of medians of CPU time (of the GPU's time on a GPU). Peak memory is that of a fresh process,
above what it held with its inputs made and a small call of the same side done.

By default the headline cells (under ten minutes on one core); --quick tries everything out on
small ones, --full runs the whole grid (an hour) and says what it skips.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.common import (
    available_bytes,
    base_parser,
    environment,
    prepare,
    progress,
    refusals,
    write_results,
)
from benchmarks.inputs import describe_teachers, make_inputs
from benchmarks.loss_report import aims, draw, flat_rows, summary
from benchmarks.ours import usable_backends
from benchmarks.sides import MEANINGS, SCOPES, Cell, estimated_bytes, side, side_names
from benchmarks.timing import ChildFailedError, in_fresh_process, interleaved
from seqdistill.errors import InputError

WIDTH = 512

#: Members' projections beyond this share one matrix; the cell says so.
_PROJECTIONS_BYTES = 4 << 30

#: A side that would need more of what is free than this is skipped.
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True)
class Size:
    """A cell of the grid: scope, vocabulary, members, tokens."""

    scope: str
    V: int
    M: int
    N: int

    def __str__(self) -> str:
        return f"{self.scope} V={self.V:,} M={self.M} N={self.N:,}"


@dataclass(frozen=True)
class Plan:
    """What is measured: cells whose time is taken, and (cell, sides) whose memory is."""

    timed: tuple[Size, ...]
    memory: tuple[tuple[Size, tuple[str, ...]], ...]
    rounds: int


def make_plan(extent: str, backends: Sequence[str], rounds: int | None) -> Plan:
    """Return the plan of ``quick``, ``headline`` or ``full``.

    Args:
        extent: which.
        backends: the usable ones of ours; the last of them has its memory measured.
        rounds: how often every side runs; None is 2 for quick, 3 for full, 5 otherwise.
    """
    ours = (f"{backends[-1]}_float32",)
    measured = ("released", "cross_entropy_float32", *ours)
    if extent == "quick":
        sizes = tuple(Size(scope, 5_000, 4, 32) for scope in SCOPES)
        return Plan(sizes, ((Size("S2", 5_000, 4, 64), measured),), rounds or 2)
    if extent == "headline":
        sizes = tuple(Size(scope, 40_000, M, 256) for scope in SCOPES for M in (4, 10))
        larger = ((Size("S2", 40_000, 4, 1024), ours), (Size("S2", 40_000, 10, 1024), measured))
        return Plan(sizes, (*((size, measured) for size in sizes), *larger), rounds or 5)
    # More tokens change no ratio, and 1,024 of 20 members at 40,000 pieces would take a minute a
    # side and round.
    tokens = {5_000: (64, 256, 1024), 40_000: (64, 256), 256_000: (64,)}
    sizes = tuple(
        Size(scope, V, M, N)
        for scope in SCOPES
        for V, Ns in tokens.items()
        for M in (1, 4, 10, 20)
        for N in Ns
    )
    memory = [(size, measured) for size in sizes if size.N >= 256]
    return Plan(sizes, tuple(memory), rounds or 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = base_parser("loss", __doc__ or "", "python -m benchmarks.loss --overwrite")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="V = 5,000, seconds: does it work")
    extent.add_argument("--full", action="store_true", help="the whole grid, an hour")
    parser.add_argument("--rounds", type=int, help="of every cell (5; --quick 2, --full 3)")
    parser.add_argument("--backends", nargs="+", metavar="NAME", help="of ours (all usable ones)")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    given = parser.parse_args(arguments)
    chosen = "quick" if given.quick else "full" if given.full else "headline"
    parts = ("loss", *([chosen] if chosen != "headline" else []))
    parts += ("cuda",) if given.device == "cuda" else ()
    with refusals(parser):
        stem = prepare(given, "-".join(parts))
        if given.rounds is not None and given.rounds < 1:
            raise InputError(f"expected at least 1 round, got {given.rounds}")
        backends = _backends(given.backends, given.device)
        plan = make_plan(chosen, backends, given.rounds)
        command = ["python", "-m", "benchmarks.loss", *(arguments or sys.argv[1:])]
        record = environment(given.device, command) | {
            "what": "loss and gradients, time and peak memory",
            "meanings": MEANINGS,
            "seed": given.seed,
            "D": WIDTH,
            "rounds": plan.rounds,
        }
        skipped: list[dict[str, str]] = []
        record["cells"] = list(time_cells(plan, backends, given.device, given.seed, skipped))
        memory = () if given.no_memory else plan.memory
        record["memory"] = list(measure_memory(memory, given, skipped))
        record["skipped"] = skipped
        record["aims"] = aims(record)
        write_results(stem, record, flat_rows(record), draw(record))
    print(summary(record))
    return 0


def time_cells(
    plan: Plan, backends: Sequence[str], device: str, seed: int, skipped: list[dict[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield a record of every cell; what cannot be run is added to ``skipped`` with its reason.

    Args:
        plan: the cells and rounds.
        backends: of ours.
        device: ``cpu`` or ``cuda``.
        seed: of the inputs.
        skipped: receives {cell, side, reason}.
    """
    for size in plan.timed:
        progress(f"{size}:")
        names = list(_that_fit(size, side_names(size.scope, list(backends)), device, skipped))
        if not names:
            continue
        cell = _make_cell(size, seed, device)
        teachers = describe_teachers(cell.inputs)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in teachers.items())
        progress(f"  teachers: {shown}")
        calls, differences = {}, {}
        expected: dict[str, torch.Tensor] | None = None
        for name in names:
            try:
                call = side(cell, name)
                call()
            except InputError as error:
                _skip(skipped, size, name, str(error))
                continue
            calls[name] = call
            if _computes_the_loss(name):
                gradients = {key: leaf.grad for key, leaf in cell.leaves().items()}
                if expected is None:
                    expected = {k: g.clone() for k, g in gradients.items() if g is not None}
                else:
                    differences[name] = {k: _gap(gradients[k], e) for k, e in expected.items()}
            cell.clear()
        expected = None
        timings = interleaved(calls, plan.rounds, device)
        cell.clear()
        sides = {}
        for name, timing in timings.items():
            sides[name] = timing.record()
            if name in differences:
                sides[name]["gradient_difference"] = differences[name]
        yield {
            **dataclasses.asdict(size),
            "teachers": teachers,
            "member_projections": "one for all" if cell.inputs.shared_projection else "own",
            "compared_with": next((n for n in names if _computes_the_loss(n)), None),
            "sides": sides,
        }


def measure_memory(
    plan: Sequence[tuple[Size, tuple[str, ...]]], given: Any, skipped: list[dict[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield the peak of every (cell, side), each in a process of its own.

    Args:
        plan: cells and their sides.
        given: the command line's seed, device and threads.
        skipped: receives what did not run, with its reason.
    """
    for size, names in plan:
        for name in _that_fit(size, names, given.device, skipped):
            settings = dataclasses.asdict(size) | {"side": name, "D": WIDTH, "seed": given.seed}
            settings |= {"device": given.device, "shared": shares_projection(size)}
            try:
                found = in_fresh_process("benchmarks.memory", settings, given.threads)
            except ChildFailedError as error:
                _skip(skipped, size, f"{name} (memory)", str(error))
                continue
            progress(f"{size} {name}: peak {found['peak_bytes'] / 1e6:,.0f} MB above its inputs")
            yield {**dataclasses.asdict(size), "side": name, **found}


def shares_projection(size: Size) -> bool:
    """Return whether the members of a cell have one projection, for want of memory."""
    return size.M * size.V * WIDTH * 4 > _PROJECTIONS_BYTES


def _make_cell(size: Size, seed: int, device: str) -> Cell:
    inputs = make_inputs(
        size.V,
        size.M,
        size.N,
        WIDTH,
        seed=seed,
        device=device,
        shared_projection=shares_projection(size),
    )
    return Cell.of(size.scope, inputs)


def _backends(wanted: Sequence[str] | None, device: str) -> list[str]:
    usable, refused = usable_backends(device)
    for name in wanted or ():
        if name not in usable:
            reason = refused.get(name, f"the backends are {', '.join(usable)}")
            raise InputError(f"--backends {name}: {reason}")
    for name, reason in refused.items():
        progress(f"without backend {name}: {reason}")
    return [name for name in usable if wanted is None or name in wanted]


def _that_fit(
    size: Size, names: Sequence[str], device: str, skipped: list[dict[str, str]]
) -> Iterator[str]:
    free = _SHARE_OF_MEMORY * available_bytes(device)
    projections = (1 if shares_projection(size) else size.M) * size.V * WIDTH * 4
    for name in names:
        needs = projections + estimated_bytes(size.scope, name, size.V, size.M, size.N, WIDTH)
        if needs > free:
            reason = f"needs about {needs / 2**30:.0f} GiB, {free / 2**30:.0f} are free for it"
            _skip(skipped, size, name, reason)
        else:
            yield name


def _skip(skipped: list[dict[str, str]], size: Size, name: str, reason: str) -> None:
    progress(f"  skipped: {size} {name}: {reason}")
    skipped.append({"cell": str(size), "side": name, "reason": reason})


def _computes_the_loss(name: str) -> bool:
    return not name.startswith(("cross_entropy", "products"))


def _gap(gradient: torch.Tensor | None, expected: torch.Tensor) -> float:
    """Return ‖gradient − expected‖ / ‖expected‖."""
    if gradient is None:
        raise RuntimeError("a side left no gradient")
    return float((gradient - expected).norm() / expected.norm())


if __name__ == "__main__":
    sys.exit(main())
