"""KDGAN: a student, a teacher and a discriminator that play a game (Wang et al. 2018).

The discriminator tells the pieces of the references from pieces that student and teacher draw;
both try to be taken for the references, and learn from each other by distillation. With σ the
logistic function, per token (their equation 5; everything is minimised but by whom it says):

    min over student s and teacher t, max over d of
        ln σ(d(y)) + α ln(1 − σ(d(y_s))) + (1 − α) ln(1 − σ(d(y_t)))
        + β KL(p_t‖p_s) + γ KL(p_s‖p_t)

A drawn piece y_s is a sample of the Concrete distribution of p_s: soft, so that the gradient goes
through it and varies less than that of hard samples.

What is ours. References are made soft, too: a discriminator tells a one-hot reference from a soft
sample by its sharpness, whatever the piece, and the players learn to be sure; alone, the game of
the paper ends at one piece with all the mass (a test shows it). So a reference y stands for a
sample of p_s (and of p_t) whose largest entry is y: where p_s is the distribution of the references
both are the same distribution, and only there. ``one_hot`` is the paper's form.

The paper's players are three networks, trained in turn. An ensemble is too large to be trained
beside its student, so the teacher is the ensemble's mean p̄ times a learnt factor, and begins as p̄.
Players read the student's features of the context, and pieces as rows of its projection; neither
learns from that. All are updated at once: the gradient of what the discriminator minimises goes
reversed into the samples (Ganin & Lempitsky 2015).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from seqdistill.errors import InputError

#: Width of the players' inner layers.
DEFAULT_RANK = 128

#: How the discriminator is shown references.
REFERENCES = ("relaxed", "one_hot")


@dataclass(frozen=True)
class KdganSettings:
    """The weights of the game.

    Attributes:
        student_share: α in [0, 1]: how much of what is drawn is the student's.
        student_weight: β ≥ 0, of KL(p_t‖p_s), by which the student learns.
        teacher_weight: γ ≥ 0, of KL(p_s‖p_t), by which the teacher learns.
        adversarial_weight: of the game in the gradients of student and teacher; 0 is plain
            distillation.
        temperature: λ > 0 of the Concrete samples.
        references: ``relaxed``, as soft as samples are, or ``one_hot``.

    Raises:
        InputError: a value out of its range.
    """

    student_share: float = 0.5
    student_weight: float = 1.0
    teacher_weight: float = 1.0
    adversarial_weight: float = 0.1
    temperature: float = 0.5
    references: str = "relaxed"

    def __post_init__(self) -> None:
        if not 0 <= self.student_share <= 1:
            raise InputError(f"expected a student's share in [0, 1], got {self.student_share}")
        for name in ("student_weight", "teacher_weight", "adversarial_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"expected a {name} of 0 or more, got {getattr(self, name)}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"expected a Concrete temperature above 0, got {self.temperature}")
        if self.references not in REFERENCES:
            raise InputError(
                f"expected references among {', '.join(REFERENCES)}, got {self.references!r}"
            )


class Discriminator(nn.Module):
    """Scores d of pieces in a context: vᵀ relu(A x + B e + a) + b; σ(d) says "a reference".

    Args:
        D: width of contexts and of pieces' embeddings.
        rank: of the inner layer.
    """

    def __init__(self, D: int, rank: int = DEFAULT_RANK) -> None:
        super().__init__()
        self.context = nn.Linear(D, rank)
        self.piece = nn.Linear(D, rank, bias=False)
        self.score = nn.Linear(rank, 1)

    def forward(self, features: Tensor, pieces: Tensor) -> Tensor:
        """Return (n) scores of n pieces, embedded (n, D), in n contexts (n, D)."""
        inner = torch.relu(self.context(features) + self.piece(pieces))
        scores: Tensor = self.score(inner).squeeze(-1)
        return scores


class TeacherPlayer(nn.Module):
    """The teacher p_t ∝ p̄ · exp(E U relu(A x + a)), E the pieces' embeddings; at first p̄ itself.

    Args:
        D: width of contexts and of pieces' embeddings.
        rank: of the inner layer.
    """

    def __init__(self, D: int, rank: int = DEFAULT_RANK) -> None:
        super().__init__()
        self.down = nn.Linear(D, rank)
        self.up = nn.Linear(rank, D, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, features: Tensor, embeddings: Tensor, mean_probs: Tensor) -> Tensor:
        """Return (n, V) ln p_t of contexts (n, D), embeddings (V, D) and p̄ (n, V)."""
        factor = self.up(torch.relu(self.down(features)))
        log_mean = mean_probs.clamp_min(torch.finfo(mean_probs.dtype).tiny).log()
        return torch.log_softmax(log_mean + factor @ embeddings.T, dim=-1)


@dataclass(frozen=True)
class KdganSums:
    """Sums over n tokens, in nats; what is minimised is the first.

    Attributes:
        total: the loss; its gradients are the players' (differentiable).
        student_divergence: Σ KL(p_t‖p_s).
        teacher_divergence: Σ KL(p_s‖p_t).
        told_apart: how many of the pieces the discriminator judged rightly, each by its share: n
            is perfect, n/2 is a coin.
    """

    total: Tensor
    student_divergence: Tensor
    teacher_divergence: Tensor
    told_apart: Tensor


def kdgan_loss(
    logits: Tensor,
    mean_probs: Tensor,
    references: Tensor,
    features: Tensor,
    embeddings: Tensor,
    discriminator: Discriminator,
    teacher: TeacherPlayer,
    settings: KdganSettings,
    gumbels: Sequence[Tensor],
) -> KdganSums:
    """The game at n tokens.

    Args:
        logits: (n, V) the student's z.
        mean_probs: (n, V) p̄.
        references: (n) the true pieces.
        features: (n, D) contexts; no gradient goes into them.
        embeddings: (V, D) of the pieces; no gradient goes into them.
        discriminator: its player.
        teacher: its player.
        settings: the weights.
        gumbels: standard Gumbel variates (:func:`draw_gumbels`): (n, V) for what the student draws
            and (n, V) for the teacher; and twice (n, V) to relax references, if they are.

    Returns:
        Sums over the tokens; ``total`` is −[ln σ(d(y)) + α ln(1 − σ(d(y_s))) +
        (1 − α) ln(1 − σ(d(y_t)))] + β KL(p_t‖p_s) + γ KL(p_s‖p_t), its first term α and 1 − α of
        the references as student and teacher would draw them.

    Raises:
        InputError: shapes differ.
    """
    if logits.shape != mean_probs.shape:
        raise InputError(
            f"the student's logits have shape {tuple(logits.shape)}, the ensemble's mean_probs "
            f"{tuple(mean_probs.shape)}; student and teachers must share one vocabulary and batch"
        )
    features, embeddings = features.detach(), embeddings.detach()
    log_student = torch.log_softmax(logits, dim=-1)
    log_teacher = teacher(features, embeddings, mean_probs)
    student_divergence = _divergence(log_teacher.detach(), log_student)
    teacher_divergence = _divergence(log_student.detach(), log_teacher)

    def judged(pieces: Tensor) -> Tensor:
        scores: Tensor = discriminator(features, pieces)
        return scores

    def drawn(log_probs: Tensor, noise: Tensor) -> Tensor:
        soft = torch.softmax((log_probs + noise) / settings.temperature, dim=-1)
        soft_and_reversed: Tensor = _Reverse.apply(soft, settings.adversarial_weight)
        return judged(soft_and_reversed @ embeddings)

    if settings.references == "one_hot":
        real = judged(embeddings[references])
        reals = [real, real]
    else:
        reals = [
            judged(
                _relaxed(references, log_probs.detach(), noise, settings.temperature) @ embeddings
            )
            for log_probs, noise in zip((log_student, log_teacher), gumbels[2:], strict=True)
        ]
    fakes = [drawn(log_student, gumbels[0]), drawn(log_teacher, gumbels[1])]
    shares = (settings.student_share, 1 - settings.student_share)
    game = torch.zeros_like(fakes[0])
    told_apart = torch.zeros_like(fakes[0])
    for share, real, fake in zip(shares, reals, fakes, strict=True):
        # −ln σ(d) = softplus(−d) and −ln(1 − σ(d)) = softplus(d).
        game = game + share * (softplus(-real) + softplus(fake))
        told_apart += share / 2 * (real.detach().gt(0).to(real) + fake.detach().lt(0).to(real))
    total = (
        game.sum()
        + settings.student_weight * student_divergence
        + settings.teacher_weight * teacher_divergence
    )
    return KdganSums(
        total, student_divergence.detach(), teacher_divergence.detach(), told_apart.sum()
    )


def _relaxed(references: Tensor, log_probs: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Return (n, V) Concrete samples of (n, V) ln p under the condition that y is the largest.

    The largest of ln p + g is standard Gumbel whichever it is, and the others are Gumbel variates
    cut off at it (Maddison, Tarlow & Minka 2014).
    """
    at = references.unsqueeze(-1)
    largest = noise.gather(-1, at)
    others = -torch.logaddexp(-largest, -(log_probs + noise))
    return torch.softmax(others.scatter(-1, at, largest) / temperature, dim=-1)


def draw_gumbels(like: Tensor) -> Tensor:
    """Return standard Gumbel variates of a tensor's shape, by torch's own state, all finite."""
    exponentials = torch.empty_like(like).exponential_()
    return -exponentials.clamp_min(torch.finfo(like.dtype).tiny).log()


def _divergence(log_target: Tensor, log_probs: Tensor) -> Tensor:
    """Σ KL(target‖p) over all rows."""
    return (log_target.exp() * (log_target - log_probs)).sum()


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is times −weight."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return given.view_as(given)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * -ctx.weight, None
