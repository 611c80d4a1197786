"""KDGAN's game from features, a chunk of tokens at a time; nothing of (N, V) is kept."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from seqdistill.kernels.chunks import default_chunk_tokens
from seqdistill.losses.cross_entropy import label_smoothed_cross_entropy
from seqdistill.losses.kdgan import (
    Discriminator,
    KdganSettings,
    TeacherPlayer,
    draw_gumbels,
    kdgan_loss,
)
from seqdistill.targets.sparse import SparseTarget
from seqdistill.teachers import EnsembleStatistics


@dataclass(frozen=True)
class KdganResult:
    """The result of :func:`chunked_kdgan_loss`, sums over N tokens.

    Attributes:
        loss_sum: what is minimised, nats, differentiable.
        log_probs: Σ ln p_s of the references.
        correct: how often the reference is the student's most probable piece.
        student_divergence: Σ KL(p_t‖p_s).
        teacher_divergence: Σ KL(p_s‖p_t).
        told_apart: what the discriminator judged rightly, N of N if all.
    """

    loss_sum: Tensor
    log_probs: Tensor
    correct: Tensor
    student_divergence: Tensor
    teacher_divergence: Tensor
    told_apart: Tensor


def chunked_kdgan_loss(
    features: Tensor,
    weight: Tensor,
    target: EnsembleStatistics | SparseTarget,
    references: Tensor,
    discriminator: Discriminator,
    teacher: TeacherPlayer,
    settings: KdganSettings,
    *,
    bias: Tensor | None = None,
    mix_weight: float = 0.0,
    label_smoothing: float = 0.0,
    chunk_tokens: int | None = None,
) -> KdganResult:
    """The game at N tokens, with a cross-entropy mixed into what the student learns.

    A chunk's rows are made again for its derivatives, so that only one chunk's are there at a time.
    The student's divergence counts 1 − w, its cross-entropy w, as with the other losses.

    Args:
        features: (N, D) of the student.
        weight: (V, D) its projection; the embeddings of pieces, too.
        target: the ensemble's, of the same tokens.
        references: (N) the true pieces.
        discriminator: its player.
        teacher: its player.
        settings: the weights of the game.
        bias: (V) of the projection.
        mix_weight: w of the cross-entropy.
        label_smoothing: its ε.
        chunk_tokens: tokens at a time.

    Raises:
        InputError: shapes do not fit.
    """
    N, V = features.shape[0], weight.shape[0]
    wide = torch.promote_types(features.dtype, torch.float32)
    game = replace(settings, student_weight=(1 - mix_weight) * settings.student_weight)
    noises = 2 if settings.references == "one_hot" else 4

    def chunk(begin: int, x: Tensor, projection: Tensor) -> tuple[Tensor, ...]:
        end = begin + len(x)
        mean_probs = _mean_probs(target, begin, end).to(wide)
        wanted = references[begin:end]
        logits = linear(x, projection, bias).to(wide)
        noise = [draw_gumbels(logits.detach()) for _ in range(noises)]
        played = kdgan_loss(
            logits,
            mean_probs,
            wanted,
            x.to(wide),
            projection.to(wide),
            discriminator,
            teacher,
            game,
            noise,
        )
        total = played.total
        if mix_weight:
            entropy, _ = label_smoothed_cross_entropy(
                logits, wanted, label_smoothing=label_smoothing
            )
            total = total + mix_weight * entropy
        with torch.no_grad():
            log_probs = torch.log_softmax(logits, dim=-1)
            of_references = log_probs.gather(-1, wanted.unsqueeze(-1)).sum()
            correct = logits.argmax(dim=-1).eq(wanted).sum().to(total)
        return (
            total,
            of_references,
            correct,
            played.student_divergence,
            played.teacher_divergence,
            played.told_apart,
        )

    n = chunk_tokens or default_chunk_tokens(V, features.device)
    sums: list[Any] = [features.new_zeros((), dtype=wide) for _ in range(6)]
    for begin in range(0, N, n):
        part = checkpoint(chunk, begin, features[begin : begin + n], weight, use_reentrant=False)
        sums = [total + one for total, one in zip(sums, part, strict=True)]
    return KdganResult(*sums)


def _mean_probs(target: EnsembleStatistics | SparseTarget, begin: int, end: int) -> Tensor:
    if isinstance(target, SparseTarget):
        return target.rows(begin, end).mean_probs()
    return target.mean_probs[begin:end]
