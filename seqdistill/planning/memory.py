"""Memory of a rank: what stays, and what comes and goes, by phase of an update.

With P parameters of the student, W ranks, K = P/W, e bytes a number (4, or 2 below float32):

=========  ==================  ==============  ==============  =====================
stage      weights             gradients       Adam, master    buffers
=========  ==================  ==============  ==============  =====================
0          P e                 P e             8 P, 4 P if e<4 min(P, 500 M) e
1          P e                 P e + K e       12 K            reduce_bucket e
2          P e                 K e             12 K            reduce_bucket e
3          K e + what is live  K e             12 K            reduce_bucket e
=========  ==================  ==============  ==============  =====================

ZeRO keeps a float32 copy of its part of the parameters in float32, too. A bucket that is larger
than the model is allocated whole on a GPU; on a CPU only what is written counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from seqdistill.planning.activations import Activations, activation_bytes, inference_bytes
from seqdistill.planning.fused import gradient_bytes, workspace_bytes
from seqdistill.planning.machines import GIB
from seqdistill.planning.sizes import Parameters, count_parameters
from seqdistill.planning.training import Training
from seqdistill.teachers.placement import TeacherMemory, teacher_memory

#: The parts of the memory, as they are shown.
PARTS = (
    "weights",
    "gradients",
    "optimizer",
    "teachers",
    "activations",
    "fused loss",
    "communication",
    "framework",
)

_FLOAT32 = 4
# DeepSpeed's bucket of a plain all-reduce, which no setting changes.
_ALL_REDUCE_BUCKET = 500_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank.

    Attributes:
        parts: by part, in the phase that needs most.
        phase: which phase that is.
        phases: totals by phase, without fragmentation.
        total: the peak, fragmentation included.
        host: of the processor's memory, for a rank.
    """

    parts: Mapping[str, int]
    phase: str
    phases: Mapping[str, int]
    total: int
    host: int


def memory(training: Training) -> Memory:
    """Return the memory of a rank."""
    student = count_parameters(training.student, training.V)
    kept = _lasting(training, student)
    activations = activation_bytes(
        training.student, training.batch, training.element_bytes, training.machine.is_cpu
    )
    phases = _phases(training, student, activations)
    tables = {
        name: {part: kept.get(part, 0) + phase.get(part, 0) for part in PARTS}
        for name, phase in phases.items()
    }
    totals = {name: sum(table.values()) for name, table in tables.items()}
    peak = max(totals, key=lambda name: totals[name])
    total = int(totals[peak] * (1 + training.assumptions.fragmentation))
    return Memory(tables[peak], peak, totals, total, host_bytes(training, student))


def partition(training: Training, P: int) -> int:
    """Return K, the parameters of a rank's part."""
    return -(-P // training.world)


def teacher_bytes(training: Training) -> int:
    """Return what frozen members take on a rank's device.

    Offloaded bodies come one at a time, two of them at once; projections stay.
    """
    if not training.online_members:
        return 0
    return _placed(training).device


def host_bytes(training: Training, student: Parameters) -> int:
    """Return what a rank keeps in the processor's memory: offloaded states and teachers."""
    total = 0
    if training.offload_optimizer:
        total += 16 * partition(training, student.total)
    if training.online_members:
        total += _placed(training).host
    return total


def _placed(training: Training) -> TeacherMemory:
    teacher, e = count_parameters(training.teacher, training.V), training.teacher_bytes
    return teacher_memory(
        training.placement,
        training.online_members,
        body_bytes=teacher.body * e,
        projection_bytes=teacher.projection * e,
        group_size=training.group_size,
    )


def _lasting(training: Training, student: Parameters) -> dict[str, int]:
    P, e = student.total, training.element_bytes
    K = partition(training, P)
    states = 8 * P if training.stage == 0 else 8 * K
    if training.stage > 0:
        states += _FLOAT32 * K
    elif e < _FLOAT32:
        states += _FLOAT32 * P
    return {
        "weights": (K if training.stage == 3 else P) * e,
        "optimizer": 0 if training.offload_optimizer else states,
        "teachers": teacher_bytes(training),
        "framework": int(training.assumptions.framework_gib * GIB),
    }


def _phases(
    training: Training, student: Parameters, activations: Activations
) -> dict[str, dict[str, int]]:
    """What each phase adds to what lasts."""
    P, e = student.total, training.element_bytes
    K = partition(training, P)
    D = training.student.decoder.width
    table = training.V * D
    held = activations.kept(training.checkpointing)
    gradients = _gradients(training, P)
    # Between the micro-batches of an update gradients stay where they are.
    between = gradients if training.update_freq > 1 else (K * e if training.stage == 3 else 0)
    buckets = _buckets(training, P)
    lasting_bucket = buckets if training.stage == 3 else 0
    live = _live(training, student)
    loss = gradient_bytes(training)
    # On a CPU the loss keeps its buffers from one call to the next.
    workspace = workspace_bytes(training)
    waiting = workspace if training.machine.is_cpu else 0
    phases: dict[str, dict[str, int]] = {}
    if training.online_members:
        # Members run after the student's forward pass, one after another.
        batch = training.batch.times(training.group_size)
        features = batch.target_tokens * training.teacher.decoder.width * training.teacher_bytes
        running = inference_bytes(training.teacher, batch, training.teacher_bytes)
        phases["teachers"] = {
            "gradients": between,
            "activations": held,
            "teachers": features * max(0, training.resident_members - 1) + running,
            "fused loss": waiting,
            "communication": lasting_bucket + live,
        }
    else:
        features = 0
    phases["loss"] = {
        "gradients": between,
        "activations": held,
        "teachers": features * training.resident_members,
        "fused loss": loss + workspace,
        "communication": lasting_bucket + live,
    }
    # The incoming gradient scales the loss's (a copy), which then takes the parameters' precision.
    scaled = loss + (table * e if e < _FLOAT32 else 0)
    phases["backward, first layer"] = {
        "gradients": between,
        "activations": activations.at_backward(training.checkpointing) + activations.transient,
        "fused loss": loss + scaled + waiting,
        "communication": (0 if training.stage == 0 else buckets) + live,
    }
    phases["backward, last layer"] = {
        "gradients": gradients,
        "activations": activations.front + activations.transient,
        "fused loss": table * e + waiting,
        "communication": (0 if training.stage == 0 else buckets) + live,
    }
    if training.stage == 0:
        # A plain all-reduce comes after the whole backward pass.
        phases["all-reduce"] = {
            "gradients": gradients,
            "fused loss": waiting,
            "communication": buckets,
        }
    phases["update"] = {
        "gradients": K * e if training.stage else gradients,
        "optimizer": _update(training, student),
        "fused loss": waiting,
        # On a GPU the allocator keeps the bucket; on a CPU it has been given back.
        "communication": 0 if training.machine.is_cpu or training.stage == 0 else buckets,
    }
    return phases


def _gradients(training: Training, P: int) -> int:
    K, e = partition(training, P), training.element_bytes
    if training.stage == 0:
        return P * e
    # ZeRO 1 has all gradients until they are copied into the bucket, page by page on a CPU.
    whole = P * e if training.stage == 1 and not training.machine.is_cpu else 0
    return whole + K * e


def _buckets(training: Training, P: int) -> int:
    """What reduces gradients."""
    e = training.element_bytes
    if training.stage == 0:
        return min(P, _ALL_REDUCE_BUCKET) * e if training.world > 1 else 0
    size = training.reduce_bucket
    if training.machine.is_cpu:
        size = min(size, P)
    return size * e


def _live(training: Training, student: Parameters) -> int:
    """What ZeRO 3 has gathered; it keeps what it will soon need again, up to ``max_live``."""
    if training.stage != 3:
        return 0
    bound = training.max_live + training.prefetch_bucket
    return min(student.total, bound) * training.element_bytes


def _update(training: Training, student: Parameters) -> int:
    """What an update takes: gradients in float32 where they are not, and Adam's denominators."""
    if training.offload_optimizer:
        return 0
    P = student.total
    if training.stage > 0:
        copies = 2 if training.element_bytes < _FLOAT32 else 1
        return copies * _FLOAT32 * partition(training, P)
    copies = _FLOAT32 * P if training.element_bytes < _FLOAT32 else 0
    return copies + _FLOAT32 * student.projection
