"""Bytes that a rank sends in an update, and how often each collective runs.

Collectives are counted as rings: with W ranks an all-reduce of n bytes sends 2 (W − 1)/W n from
each, a reduce-scatter or an all-gather (W − 1)/W n.
"""

from dataclasses import dataclass

from seqdistill.planning.sizes import count_parameters
from seqdistill.planning.training import Training
from seqdistill.teachers.placement import offload_traffic, shard_traffic

_FLOAT32 = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes a rank sends in an update.

    Attributes:
        gradients: reducing them.
        parameters: gathering what others updated, or hold.
        teachers: inputs and sums of sharded members.
        host: over the link to the processor: offloaded states and members.
        store: read from the disk.
    """

    gradients: int
    parameters: int
    teachers: int
    host: int
    store: int


def collective_bytes(kind: str, payload: float, ranks: int) -> int:
    """Return the bytes that each rank sends in a ring.

    Args:
        kind: ``all_reduce``, ``reduce_scatter`` or ``all_gather``.
        payload: of the whole tensor, in bytes.
        ranks: of the ring.

    Example:
        >>> collective_bytes("all_reduce", 100, 4), collective_bytes("all_gather", 100, 4)
        (150, 75)
    """
    factor = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}[kind]
    return int(factor * payload * (ranks - 1) / ranks)


def traffic(training: Training) -> Traffic:
    """Return what a rank sends in an update of ``update_freq`` micro-batches."""
    P = count_parameters(training.student, training.V).total
    W, e, k = training.world, training.element_bytes, training.update_freq
    payload = P * e
    if training.stage == 0:
        gradients = collective_bytes("all_reduce", payload, W)
        parameters = 0
    elif training.stage <= 2:
        # DeepSpeed reduces buckets of several ranks' parts by all-reduces. From stage 2 on
        # gradients are partitioned, so those of every micro-batch are reduced.
        micro = k if training.stage == 2 else 1
        gradients = micro * collective_bytes("all_reduce", payload, W)
        parameters = collective_bytes("all_gather", payload, W)
    else:
        gradients = k * collective_bytes("reduce_scatter", payload, W)
        parameters = k * gathers_of_a_step(training) * collective_bytes("all_gather", payload, W)
    return Traffic(
        gradients, parameters, k * _teachers(training), _host(training), _store(training)
    )


def gathers_of_a_step(training: Training) -> int:
    """Return how often ZeRO 3 gathers a parameter in a micro-batch.

    Twice, forward and backward; once where all parameters may stay between the two.
    """
    P = count_parameters(training.student, training.V).total
    return 1 if training.max_live >= P else 2


def _teachers(training: Training) -> int:
    """Inputs of the group, and the sums A, B (N, V) and C (N) of each rank's tokens."""
    G = training.group_size
    if G == 1:
        return 0
    batch = training.batch
    inputs = batch.sentences * (batch.source + 2 * batch.target) * 8
    if training.student.subsampler is not None:
        inputs = batch.sentences * (
            batch.source * training.student.subsampler.features * _FLOAT32 + 16 * batch.target
        )
    return (G - 1) * inputs + shard_traffic(training.V, G, [batch.target_tokens] * G)[0]


def _host(training: Training) -> int:
    total = 0
    P = count_parameters(training.student, training.V).total
    if training.offload_optimizer:
        K = -(-P // training.world)
        micro = training.update_freq if training.stage >= 2 else 1
        total += (micro + 1) * K * training.element_bytes
    return total + offloaded_bytes(training)


def offloaded_bytes(training: Training) -> int:
    """Return what offloaded members move to the device in an update."""
    if not training.online_members or training.placement != "offload":
        return 0
    body = count_parameters(training.teacher, training.V).body * training.teacher_bytes
    return training.update_freq * offload_traffic(training.online_members, body)


def _store(training: Training) -> int:
    """Of each token k pieces (2 or 4 bytes) with p̄ in float16, and 5 numbers in float32."""
    if training.stored_pieces is None:
        return 0
    piece = 2 if training.V <= 1 << 16 else 4
    token = training.stored_pieces * (piece + 2) + 5 * _FLOAT32
    return training.update_freq * training.batch.target_tokens * token
