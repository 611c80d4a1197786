"""The fused loss: operations, bytes it moves, and its workspace.

For N tokens, M members and V pieces it computes M products features · projectionᵀ and three of the
student (logits, the features' gradient, the projection's), 2 N V D operations each; everything else
is element-wise and bound by memory.
"""

import torch

from seqdistill.kernels.chunks import default_chunk_tokens
from seqdistill.planning.flops import projection_flops
from seqdistill.planning.training import Training

_FLOAT32 = 4
# Of sharded members' sums: one sent and one received, and the same of the next.
_TRANSFERS = 4


def student_flops(training: Training) -> int:
    """Return the operations of the student's three products in a micro-batch."""
    return 3 * projection_flops(
        training.batch.target_tokens, training.V, training.student.decoder.width
    )


def member_flops(training: Training) -> int:
    """Return the operations of the members' products on the rank that has most of them."""
    tokens = training.batch.target_tokens * training.group_size
    one = projection_flops(tokens, training.V, training.teacher.decoder.width)
    return training.resident_members * one


def member_entries(training: Training) -> int:
    """Return how many entries of members' logits a rank reduces to sums in a micro-batch."""
    tokens = training.batch.target_tokens * training.group_size
    return training.resident_members * tokens * training.V


def student_entries(training: Training) -> int:
    """Return how many entries of the student's logits a rank turns into gradients."""
    return training.batch.target_tokens * training.V


def member_entry_bytes(training: Training) -> int:
    """Return the bytes moved for an entry: logits written, read twice, two sums updated."""
    return 3 * training.teacher_bytes + 4 * _FLOAT32


def student_entry_bytes(training: Training) -> int:
    """Return the bytes moved for an entry: logits written, read twice, replaced; targets read."""
    return 4 * training.element_bytes + 3 * _FLOAT32


def chunk_tokens(training: Training) -> int:
    """Return the tokens of a chunk."""
    if training.chunk_tokens is not None:
        return min(training.chunk_tokens, training.batch.target_tokens)
    device = torch.device("cpu" if training.machine.is_cpu else "cuda")
    return min(default_chunk_tokens(training.V, device), training.batch.target_tokens)


def workspace_bytes(training: Training) -> int:
    """Return the buffers of a chunk.

    p̄ and, of members, ℓ̄ in float32, and logits; below float32 the student's product for the
    projection's gradient; float16 has wide copies of the logits. Members in another precision than
    the student have logits of their own.
    """
    rows = chunk_tokens(training) * training.V
    members = training.online_members > 0
    total = rows * _FLOAT32 * (2 if members else 1) + rows * training.element_bytes
    if members and training.teacher_bytes != training.element_bytes:
        total += rows * training.teacher_bytes
    D = training.student.decoder.width
    if training.element_bytes < _FLOAT32:
        total += training.V * D * training.element_bytes
    if training.precision == "float16":
        total += rows * _FLOAT32
    if members and training.placement == "shard" and training.group_size > 1:
        total += _TRANSFERS * (20 << 20 if training.machine.is_cpu else 128 << 20)
    return total


def gradient_bytes(training: Training) -> int:
    """Return the gradients that the loss holds for the backward pass: of projection and features.

    Both are float32 at least.
    """
    D = training.student.decoder.width
    return _FLOAT32 * D * (training.V + training.batch.target_tokens)
