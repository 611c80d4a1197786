"""A whole plan: memory, time, whether it fits, and the nearest change that makes it fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from seqdistill.errors import InputError
from seqdistill.planning.machines import GIB
from seqdistill.planning.memory import Memory, memory
from seqdistill.planning.sizes import count_parameters
from seqdistill.planning.times import Times, times
from seqdistill.planning.traffic import Traffic, traffic
from seqdistill.planning.training import Training


@dataclass(frozen=True)
class Plan:
    """What is predicted of a training.

    Attributes:
        training: what was planned.
        memory: of a rank.
        times: of an update.
        traffic: of a rank, in an update.
        advice: the nearest change with which it fits; None if it fits, or if none was found.
    """

    training: Training
    memory: Memory
    times: Times
    traffic: Traffic
    advice: str | None

    @property
    def fits(self) -> bool:
        """Whether the peak is within the device's memory."""
        return self.memory.total <= self.training.machine.memory

    @property
    def tokens_of_update(self) -> int:
        """Target tokens of an update, on all ranks."""
        training = self.training
        return training.batch.target_tokens * training.world * training.update_freq

    @property
    def hours(self) -> float | None:
        """Of all updates; None if their number was not given."""
        updates = self.training.updates
        return None if updates is None else updates * self.times.total / 3600

    def record(self) -> dict[str, Any]:
        """Return everything as JSON takes it; bytes and seconds."""
        training = self.training
        return {
            "fits": self.fits,
            "advice": self.advice,
            "machine": training.machine.name,
            "memory_of_device": int(training.machine.memory),
            "student_parameters": count_parameters(training.student, training.V).total,
            "teacher_parameters": count_parameters(training.teacher, training.V).total,
            "placement": training.placement,
            "stage": training.stage,
            "ranks": training.world,
            "members": training.online_members,
            "group_size": training.group_size,
            "memory": {
                "total": self.memory.total,
                "phase": self.memory.phase,
                "parts": dict(self.memory.parts),
                "phases": dict(self.memory.phases),
                "host": self.memory.host,
            },
            "seconds": {"total": self.times.total, "parts": dict(self.times.parts)},
            "flops": dict(self.times.flops),
            "sent_bytes": {
                "gradients": self.traffic.gradients,
                "parameters": self.traffic.parameters,
                "teachers": self.traffic.teachers,
                "host": self.traffic.host,
                "store": self.traffic.store,
            },
            "tokens_of_update": self.tokens_of_update,
            "hours": self.hours,
            "assumptions": training.assumptions.record(),
        }


def make_plan(training: Training) -> Plan:
    """Return the plan of a training.

    Example:
        >>> from seqdistill.planning import machine, preset
        >>> big = preset("transformer-big")
        >>> plan = make_plan(Training(big, big, 20, 40_000, 4096, 32, 32, machine("a100-40")))
        >>> plan.fits, plan.tokens_of_update
        (True, 4096)
    """
    needed = memory(training)
    advice = None
    if needed.total > training.machine.memory:
        advice = nearest_that_fits(training)
    return Plan(training, needed, times(training), traffic(training), advice)


def nearest_that_fits(training: Training) -> str | None:
    """Return the cheapest change with which a training fits, in words; None if none does.

    Changes are tried from what costs least time to what costs most, and then two at a time.
    """
    for named, changed in _changes(training):
        if memory(changed).total <= training.machine.memory:
            return named
    return None


def require_fit(training: Training, limit: float | None = None) -> Memory:
    """Refuse a training that needs more memory than there is, before it starts.

    Args:
        training: what is about to start.
        limit: bytes; those of the machine if None.

    Returns:
        The prediction.

    Raises:
        InputError: it does not fit; the message says by what, and which change would make it.
    """
    if limit is not None:
        training = replace(training, machine=replace(training.machine, memory=limit))
    needed = memory(training)
    available = training.machine.memory
    if needed.total <= available:
        return needed
    largest = sorted(needed.parts.items(), key=lambda part: -part[1])[:3]
    shown = ", ".join(f"{name} {gib(size)}" for name, size in largest)
    advice = nearest_that_fits(training)
    hint = f"with {advice} it would fit" if advice else "no placement, stage or batch tried fits"
    raise InputError(
        f"{training.online_members} teachers and the student do not fit: a rank would need "
        f"{gib(needed.total)} ({shown}), and there are {gib(available)}; {hint}"
    )


def gib(size: float) -> str:
    """Return bytes as text.

    Example:
        >>> gib(3 * 2**30)
        '3.0 GiB'
    """
    return f"{size / GIB:.1f} GiB" if size >= 0.05 * GIB else f"{size / 2**20:.0f} MiB"


def _changes(training: Training) -> Iterator[tuple[str, Training]]:
    singles = list(_single_changes(training))
    yield from singles
    for name, changed in singles:
        for other, both in _single_changes(changed):
            if other.split()[0] != name.split()[0]:
                yield f"{name} and {other}", both


def _single_changes(training: Training) -> Iterator[tuple[str, Training]]:
    if training.online_members and training.placement == "replicate" and training.gpus > 1:
        yield "--teacher-placement shard", replace(training, placement="shard")
    for stage in range(training.stage + 1, 4):
        if training.world > 1:
            yield f"--zero-stage {stage}", replace(training, stage=stage)
    if training.reduce_bucket > 50_000_000 and training.stage:
        smaller = replace(training, reduce_bucket=50_000_000)
        yield "--reduce-bucket 50000000", smaller
    if not training.checkpointing:
        yield "--checkpoint-activations", replace(training, checkpointing=True)
    if training.online_members and training.placement != "offload":
        yield "--teacher-placement offload", replace(training, placement="offload")
    if training.stage and not training.offload_optimizer:
        yield "--offload-optimizer", replace(training, offload_optimizer=True)
    tokens, factor = training.tokens // 2, 2
    while tokens >= training.target_length:
        yield (
            f"--tokens {tokens} --update-freq {training.update_freq * factor}",
            replace(training, tokens=tokens, update_freq=training.update_freq * factor),
        )
        tokens, factor = tokens // 2, factor * 2
