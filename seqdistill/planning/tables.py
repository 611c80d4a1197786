"""Plans as text: one plan whole, and a sweep over members, devices and placements."""

from collections.abc import Iterator
from dataclasses import replace

from seqdistill.planning.memory import PARTS as MEMORY_PARTS
from seqdistill.planning.plans import Plan, gib, make_plan
from seqdistill.planning.sizes import count_parameters
from seqdistill.planning.times import PARTS as TIME_PARTS
from seqdistill.planning.training import Training

#: What a sweep goes through: vocabulary, members, GPUs (nodes × GPUs of a node).
SWEEP = tuple(
    (V, M, nodes, gpus)
    for V in (40_000, 256_000)
    for M in (5, 10, 20)
    for nodes, gpus in ((1, 1), (1, 8), (8, 8))
)

#: The ways to have teachers that a sweep compares.
WAYS = ("replicate", "shard", "offload", "store")

_STORED_PIECES = 128


def plan_text(plan: Plan) -> str:
    """Return a plan as it is printed."""
    return "\n".join([*_head(plan), "", *_memory(plan), "", *_time(plan), "", *_verdict(plan)])


def _head(plan: Plan) -> list[str]:
    training = plan.training
    student = count_parameters(training.student, training.V)
    batch = training.batch
    lines = [
        f"student   {student.total / 1e6:,.1f} M parameters, of which the projection "
        f"{student.projection / 1e6:,.1f} M; V = {training.V:,}; {training.precision}",
    ]
    if training.stored_pieces is not None:
        lines.append(f"targets   of a store, {training.stored_pieces} pieces a token")
    elif training.online_members:
        teacher = count_parameters(training.teacher, training.V)
        group = f" in groups of {training.group_size}" if training.placement == "shard" else ""
        lines.append(
            f"teachers  {training.online_members} × {teacher.total / 1e6:,.1f} M parameters, "
            f"{training.placement}{group}; {training.teacher_precision}"
        )
    return [
        *lines,
        f"batch     {batch.sentences} × {batch.target} target tokens, sources of {batch.source}, "
        f"update-freq {training.update_freq}: {plan.tokens_of_update:,} tokens an update",
        f"machine   {training.nodes} × {training.gpus} {training.machine.name}; ZeRO "
        f"{training.stage}{', optimizer offloaded' if training.offload_optimizer else ''}"
        f"{', activations recomputed' if training.checkpointing else ''}",
    ]


def _memory(plan: Plan) -> list[str]:
    rows = [
        (part, gib(plan.memory.parts[part])) for part in MEMORY_PARTS if plan.memory.parts[part]
    ]
    share = plan.training.assumptions.fragmentation
    lines = _table(f"memory of a rank, at its peak ({plan.memory.phase})", rows)
    lines.append(f"  with {share:.0%} of fragmentation: {gib(plan.memory.total)}")
    if plan.memory.host:
        lines.append(f"  and {gib(plan.memory.host)} of the processor's memory")
    return lines


def _time(plan: Plan) -> list[str]:
    rows = [
        (part, milliseconds(plan.times.parts[part]))
        for part in TIME_PARTS
        if plan.times.parts[part]
    ]
    lines = _table("time of an update", rows)
    speed = plan.tokens_of_update / plan.times.total
    lines.append(f"  together: {milliseconds(plan.times.total)}, {speed:,.0f} target tokens/s")
    if plan.hours is not None:
        lines.append(f"  {plan.training.updates:,} updates: {plan.hours:,.1f} hours")
    return lines


def _verdict(plan: Plan) -> list[str]:
    available = gib(plan.training.machine.memory)
    if plan.fits:
        return [f"fits: {gib(plan.memory.total)} of {available}"]
    advice = (
        f"with {plan.advice} it would" if plan.advice else "nothing that was tried makes it fit"
    )
    return [f"does not fit: {gib(plan.memory.total)} of {available}; {advice}"]


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [title, *(f"  {name:<26}{value:>12}" for name, value in rows)]


def milliseconds(seconds: float) -> str:
    """Return seconds as text.

    Example:
        >>> milliseconds(0.0123), milliseconds(2.5)
        ('12.3 ms', '2.50 s')
    """
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


# --- sweep ----------------------------------------------------------------------------------


def way(training: Training, name: str) -> Training:
    """Return a training with teachers placed in one way, or their targets stored."""
    if name == "store":
        return replace(training, stored_pieces=_STORED_PIECES)
    return replace(training, placement=name, stored_pieces=None, group=None)


def sweep(training: Training) -> Iterator[list[Plan]]:
    """Give the plans of every cell of :data:`SWEEP`, one for each of :data:`WAYS`.

    A single GPU has no ranks to shard members over, and ZeRO nothing to partition.
    """
    for V, M, nodes, gpus in SWEEP:
        cell = replace(training, V=V, M=M, nodes=nodes, gpus=gpus)
        yield [make_plan(way(cell, name)) for name in WAYS]


def sweep_text(training: Training) -> str:
    """Return the sweep as a table in Markdown: GiB and milliseconds of an update."""
    lines = [
        f"| V | M | GPUs | {' | '.join(WAYS)} |",
        f"|---:|---:|---:|{'---:|' * len(WAYS)}",
    ]
    for plans in sweep(training):
        given = plans[0].training
        cells = [
            "–" if plan.training.placement == "shard" and plan.training.group_size == 1
            and plan.training.online_members else cell_text(plan)
            for plan in plans
        ]  # fmt: skip
        lines.append(f"| {given.V:,} | {given.M} | {given.world} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell_text(plan: Plan) -> str:
    """Return a plan in a cell: its memory and time, crossed out where it does not fit."""
    text = f"{plan.memory.total / 2**30:.1f} / {plan.times.total * 1e3:.0f}"
    return text if plan.fits else f"~~{text}~~"
