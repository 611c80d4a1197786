"""Seconds of an update, by part: counted operations and bytes over what the machine reaches."""

from collections.abc import Mapping
from dataclasses import dataclass

from seqdistill.planning import fused
from seqdistill.planning.activations import activation_bytes
from seqdistill.planning.flops import body_flops
from seqdistill.planning.machines import BYTES
from seqdistill.planning.sizes import count_parameters
from seqdistill.planning.traffic import offloaded_bytes, traffic
from seqdistill.planning.training import Training

#: The parts of the time, as they are shown.
PARTS = (
    "student forward",
    "student backward",
    "teachers",
    "fused loss",
    "optimizer",
    "gradients and parameters",
    "teacher traffic",
    "store",
)


@dataclass(frozen=True)
class Times:
    """Seconds of an update.

    Attributes:
        parts: by part; what is hidden behind computing is left out.
        total: their sum.
        flops: operations of matrix products by part, counted.
    """

    parts: Mapping[str, float]
    total: float
    flops: Mapping[str, int]


def times(training: Training) -> Times:
    """Return how long an update takes, and of what."""
    given, machine = training.assumptions, training.machine
    k, batch = training.update_freq, training.batch
    bandwidth = machine.bandwidth * given.bandwidth_efficiency
    student = body_flops(training.student, batch, training.V)
    element_wise = activation_bytes(training.student, batch, training.element_bytes, machine.is_cpu)
    passes = given.activation_passes * (element_wise.layers + element_wise.front) / bandwidth
    again = student.recomputed if training.checkpointing else 0
    group = training.group_size
    member = body_flops(training.teacher, batch.times(group), training.V)
    member_wise = activation_bytes(
        training.teacher, batch.times(group), training.teacher_bytes, machine.is_cpu
    )
    resident = training.resident_members
    flops = {
        "student forward": k * student.forward,
        "student backward": k * (student.backward + again),
        "teachers": k * resident * member.layers + k * resident * member.front,
        "fused loss": k * (fused.student_flops(training) + fused.member_flops(training)),
    }

    def body(operations: float, precision: str) -> float:
        return operations / (machine.flops(precision) * given.body_efficiency)

    own, theirs = training.precision, training.teacher_precision
    member_passes = given.activation_passes * (member_wise.layers + member_wise.front) / bandwidth
    parts = {
        "student forward": body(flops["student forward"], own) + k * passes,
        "student backward": body(flops["student backward"], own)
        + k * passes * (3 if training.checkpointing else 2)
        + k * _table_bytes(training) / bandwidth,
        "teachers": body(flops["teachers"], theirs) + k * resident * member_passes,
        "fused loss": k * _fused(training),
        "optimizer": _optimizer(training),
    }
    hidden = given.overlap * parts["student backward"]
    moved = traffic(training)
    link = _link(training)
    parts["gradients and parameters"] = max(
        0.0, (moved.gradients + moved.parameters) / link - hidden
    )
    parts["teacher traffic"] = _teacher_traffic(training, parts["teachers"])
    # Read ahead by the data loader's workers.
    reading = moved.store / given.store_bandwidth
    parts["store"] = max(0.0, reading - sum(parts.values()))
    return Times(parts, sum(parts.values()), flops)


def link_bandwidth(training: Training, ranks: int) -> float:
    """Return bytes a second of the slowest link of a ring of ``ranks``."""
    given = training.assumptions
    slowest = training.machine.link
    if ranks > training.gpus:
        slowest = min(slowest, given.network)
    return slowest * given.link_efficiency


def _link(training: Training) -> float:
    return link_bandwidth(training, training.world)


def _fused(training: Training) -> float:
    """Seconds of a micro-batch's loss: products, then what is bound by memory."""
    given, machine = training.assumptions, training.machine
    bandwidth = machine.bandwidth * given.bandwidth_efficiency
    peak = machine.flops(training.precision) * given.projection_efficiency
    members = machine.flops(training.teacher_precision) * given.projection_efficiency
    seconds = fused.student_flops(training) / peak + fused.member_flops(training) / members
    each = given.member_seconds or fused.member_entry_bytes(training) / bandwidth
    seconds += fused.member_entries(training) * each
    each = given.student_seconds or fused.student_entry_bytes(training) / bandwidth
    return seconds + fused.student_entries(training) * each


def _table_bytes(training: Training) -> int:
    """Return the bytes that a backward pass moves for matrices as large as the vocabulary.

    The loss's gradient is scaled (read and written); that of each embedding is filled with zeros,
    and added to what is there (two read, one written).
    """
    student = training.student
    tables = 4 * student.decoder.width + (0 if student.is_speech else 4 * student.encoder.width)
    return training.V * (2 * student.decoder.width + tables) * 4


def _optimizer(training: Training) -> float:
    P = count_parameters(training.student, training.V).total
    parameters = P if training.stage == 0 else -(-P // training.world)
    given = training.assumptions
    # Below float32 the parameters are written once more.
    moved = parameters * (given.adam_bytes + BYTES[training.precision] % 4)
    if not training.offload_optimizer:
        return moved / (training.machine.bandwidth * given.bandwidth_efficiency)
    share = training.gpus  # the processor's memory serves all ranks of a node
    micro = training.update_freq if training.stage >= 2 else 1
    over_the_link = (micro + 1) * parameters * training.element_bytes
    return moved * share / given.host_adam_bandwidth + over_the_link / (
        training.machine.host_link * given.link_efficiency
    )


def _teacher_traffic(training: Training, computing: float) -> float:
    """Seconds of sharded members' inputs and sums, or of offloaded members' way to the device.

    The next member is fetched while one computes.
    """
    given = training.assumptions
    if not training.online_members:
        return 0.0
    if training.placement == "offload":
        moved = offloaded_bytes(training)
        return max(0.0, moved / (training.machine.host_link * given.link_efficiency) - computing)
    return traffic(training).teachers / link_bandwidth(training, training.group_size)
