"""Likelihoods of every member's logits, walked a chunk of tokens at a time.

A chunk's logits of the student and of one member after the other are made of features and
projections; their derivatives go into the features' and the projection's gradients at once. What is
held of a whole batch are the scales, which the student's own outputs made, and their gradient.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.kernels.chunks import default_chunk_tokens
from seqdistill.kernels.members import MemberLogits, MemberProjections, member_name
from seqdistill.losses.concrete import concrete_loss
from seqdistill.losses.cross_entropy import label_smoothed_cross_entropy
from seqdistill.losses.logit_space import FAMILIES, logit_space_loss

#: Distributions over the members' logits.
DISTRIBUTIONS = (*FAMILIES, "concrete")


@dataclass(frozen=True)
class LogitSpaceLoss:
    """Which likelihood is computed, and what is added to it.

    Per token (1 − w)[mean_weight · KL(p̄‖softmax(z)) + likelihood_weight · NLL/V] + w · CE.

    Attributes:
        distribution: ``laplace``, ``gaussian`` or ``concrete``.
        comparable: how members' logits are made comparable; not for ``concrete``.
        mean_weight: of the divergence.
        likelihood_weight: of the likelihood, nats an entry of the vocabulary.
        mix_weight: w of the label-smoothed cross-entropy.
        label_smoothing: its ε.

    Raises:
        InputError: a value that makes no sense.
    """

    distribution: str
    comparable: str = "log_softmax"
    mean_weight: float = 1.0
    likelihood_weight: float = 1.0
    mix_weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise InputError(
                f"expected a distribution among {', '.join(DISTRIBUTIONS)}, got "
                f"{self.distribution!r}"
            )
        for name in ("mean_weight", "likelihood_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"expected a {name} of 0 or more, got {getattr(self, name)}")
        if not self.likelihood_weight > 0:
            raise InputError(
                "a likelihood of weight 0 leaves the scales untrained; distil the mean "
                "(mean_kl) instead"
            )
        if not 0 <= self.mix_weight <= 1:
            raise InputError(f"expected a mix weight in [0, 1], got {self.mix_weight}")

    def sum(
        self,
        logits: Tensor,
        log_scales: Tensor,
        members: Iterator[Tensor],
        references: Tensor | None,
    ) -> Tensor:
        """Return the loss sum of n tokens, of logits (n, V) and scales (n, V) or (n, 1)."""
        own = 1 - self.mix_weight
        if self.distribution == "concrete":
            total, _ = concrete_loss(
                logits,
                -log_scales,
                members,
                mean_weight=own * self.mean_weight,
                likelihood_weight=own * self.likelihood_weight,
            )
        else:
            total, _ = logit_space_loss(
                logits,
                log_scales,
                members,
                family=self.distribution,
                comparable=self.comparable,
                mean_weight=own * self.mean_weight,
                likelihood_weight=own * self.likelihood_weight,
            )
        if self.mix_weight:
            if references is None:
                raise InputError("a cross-entropy is mixed in, so references are needed")
            entropy, _ = label_smoothed_cross_entropy(
                logits, references, label_smoothing=self.label_smoothing
            )
            total = total + self.mix_weight * entropy
        return total


@dataclass(frozen=True)
class LogitSpaceResult:
    """The result of :func:`fused_logit_space_loss`.

    Attributes:
        loss_sum: scalar, differentiable once in features, weight, bias and scales.
        token_count: number of tokens, N.
        log_probs: (N) ln softmax(z) of the reference pieces; 0 without references.
        correct: (N) whether the most probable piece is the reference's.
    """

    loss_sum: Tensor
    token_count: Tensor
    log_probs: Tensor
    correct: Tensor


def fused_logit_space_loss(
    features: Tensor,
    weight: Tensor,
    log_scales: Tensor,
    members: MemberProjections | MemberLogits,
    *,
    loss: LogitSpaceLoss,
    bias: Tensor | None = None,
    references: Tensor | None = None,
    chunk_tokens: int | None = None,
) -> LogitSpaceResult:
    """Likelihood of the members' logits under a student of location features · weightᵀ + bias.

    The same as :func:`~seqdistill.losses.logit_space.logit_space_loss` (or
    :func:`~seqdistill.losses.concrete.concrete_loss`) of all logits, of which neither (M, N, V) nor
    (N, V) is held.

    Args:
        features: (N, D) of counted tokens.
        weight: (V, D) the student's projection.
        log_scales: (N, V), or (N, 1) for ``concrete``: ln b.
        members: M, read on the same tokens.
        loss: which.
        bias: (V) of the projection.
        references: (N) reference pieces.
        chunk_tokens: tokens at a time.

    Raises:
        InputError: shapes do not fit, or a member gave NaN or infinity (it is named).

    Example:
        >>> import torch
        >>> members = MemberLogits(torch.randn(2, 3, 5))
        >>> result = fused_logit_space_loss(
        ...     torch.randn(3, 4), torch.randn(5, 4), torch.zeros(3, 5), members,
        ...     loss=LogitSpaceLoss("laplace"),
        ... )
        >>> int(result.token_count)
        3
    """
    N, V = features.shape[0], weight.shape[0]
    width = 1 if loss.distribution == "concrete" else V
    if log_scales.shape != (N, width):
        raise InputError(
            f"expected scales of shape {(N, width)} for a {loss.distribution} student of {N} "
            f"tokens, got {tuple(log_scales.shape)}"
        )
    given = members.features if isinstance(members, MemberProjections) else members.logits
    if given[0].shape[:-1] != (N,):
        raise InputError(
            f"the student has {N} tokens, the members {tuple(given[0].shape[:-1])}; read both on "
            "the tokens that count"
        )
    walk = _Walk(members, loss, references, chunk_tokens or default_chunk_tokens(V, weight.device))
    walk.log_probs = features.new_zeros(N, dtype=torch.float32)
    walk.correct = torch.zeros(N, dtype=torch.bool, device=features.device)
    total: Tensor = _FusedWalk.apply(features, weight, bias, log_scales, walk)
    return LogitSpaceResult(
        total, torch.tensor(N, device=features.device), walk.log_probs, walk.correct
    )


class _Walk:
    """What a walk reads beside tensors with gradients, and what it finds out."""

    log_probs: Tensor
    correct: Tensor

    def __init__(
        self,
        members: MemberProjections | MemberLogits,
        loss: LogitSpaceLoss,
        references: Tensor | None,
        chunk_tokens: int,
    ) -> None:
        self.members, self.loss, self.references = members, loss, references
        self.chunk_tokens = chunk_tokens

    def tokens(self, rows: slice, logits: Tensor, log_scales: Tensor) -> Tensor:
        """Return the loss sum of some tokens, and note what is logged of them."""
        references = None if self.references is None else self.references[rows]
        if references is not None:
            with torch.no_grad():
                log_total = torch.logsumexp(logits, dim=-1)
                chosen = logits.gather(-1, references.unsqueeze(-1)).squeeze(-1)
                self.log_probs[rows] = (chosen - log_total).float()
                self.correct[rows] = chosen >= logits.amax(dim=-1)
        return self.loss.sum(logits, log_scales, member_rows(self.members, rows), references)


def member_rows(members: MemberProjections | MemberLogits, rows: slice) -> Iterator[Tensor]:
    """Give each member's logits over T (n, V) at some tokens, float32 at least.

    Raises:
        InputError: one is not finite; it is named.
    """
    given = members.features if isinstance(members, MemberProjections) else members.logits
    for m in range(len(given)):
        if isinstance(members, MemberProjections):
            bias = None if members.biases is None else members.biases[m]
            features = members.features[m][rows].to(members.weights[m].dtype)
            logits = torch.nn.functional.linear(features, members.weights[m], bias)
        else:
            logits = members.logits[m][rows]
        logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        if not bool(torch.isfinite(logits.sum())):
            raise InputError(
                f"NaN or infinite logits from {member_name(members.names, m)}; check that "
                "checkpoint, and its dtype (float16 overflows where bfloat16 and float32 do not)"
            )
        yield logits / members.temperature if members.temperature != 1.0 else logits


class _FusedWalk(torch.autograd.Function):
    """The walk; gradients are made beside the value, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        log_scales: Tensor,
        walk: _Walk,
    ) -> Tensor:
        wants = any(ctx.needs_input_grad[:4])
        wide = torch.promote_types(features.dtype, torch.float32)
        of_features = torch.zeros_like(features, dtype=wide) if wants else None
        of_weight = torch.zeros_like(weight, dtype=wide) if wants else None
        of_bias = None if bias is None or not wants else torch.zeros_like(bias, dtype=wide)
        of_scales = torch.zeros_like(log_scales) if wants else None
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        for begin in range(0, len(features), walk.chunk_tokens):
            rows = slice(begin, begin + walk.chunk_tokens)
            here = features[rows].to(weight.dtype)
            z = torch.nn.functional.linear(here, weight, bias).to(wide)
            with torch.enable_grad():
                z, s = z.detach().requires_grad_(wants), log_scales[rows].detach()
                part = walk.tokens(rows, z, s.requires_grad_(wants))
            total += part.detach().double()
            if of_features is None or of_weight is None or of_scales is None:
                continue
            of_z, of_s = torch.autograd.grad(part, (z, s))
            of_scales[rows] = of_s
            # The products in the model's precision, as its own backward would make them.
            of_z = of_z.to(weight.dtype)
            of_features[rows] = (of_z @ weight).to(wide)
            of_weight += (of_z.t() @ here).to(wide)
            if of_bias is not None:
                of_bias += of_z.sum(dim=0, dtype=wide)
        if of_features is not None:
            ctx.has_bias = of_bias is not None
            saved = [of_features, of_weight, of_scales]
            ctx.save_for_backward(*saved, *([] if of_bias is None else [of_bias]))
        ctx.dtypes = features.dtype, weight.dtype, log_scales.dtype
        return total.to(wide)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this loss has a first derivative only; create_graph=True asks for a second"
            )
        of_features, of_weight, of_scales, *rest = ctx.saved_tensors
        scale = grad_output.to(of_features.dtype)
        features, weight, scales = ctx.dtypes
        return (
            (of_features * scale).to(features),
            (of_weight * scale).to(weight),
            (rest[0] * scale).to(weight) if rest else None,
            (of_scales * scale).to(scales),
            None,
        )
