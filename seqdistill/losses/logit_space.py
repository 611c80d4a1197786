"""Logit-space distribution distillation: a Laplace or Gaussian over the members' logits.

The student has two outputs a piece: a location and the logarithm of a scale. Its loss is the
negative log-likelihood of the members' logits, beside the divergence from their mean prediction
(Fathullah, Xia & Gales 2023). A model's logits are known up to a constant a token, so all of them
are made comparable first, in one of two ways (:data:`COMPARABLE`), the student's location μ as the
members':

- ``log_softmax``: x_m = ln p_m and μ = ln softmax(z).
- ``centred``: x_m = logits_m − their mean over the vocabulary, and μ = z − its mean.

Per token, with M members, x_m (V) and scale b = e^s (V):

    laplace    mean_v [ mean_m |x_m − μ|/b + s + ln 2 ]
    gaussian   mean_v [ mean_m (x_m − μ)²/(2b²) + s + ½ ln 2π ]

a mean over the vocabulary (nats an entry): a sum of V terms would drown everything that is added.
Members are read once, one after another; nothing of size (M, V) is held.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.mean_kl import mean_kl_rows

#: Distributions of one logit.
FAMILIES = ("laplace", "gaussian")
#: How the logits of different members are made comparable.
COMPARABLE = ("log_softmax", "centred")

#: (z (n, V), s (n, V) or (n, 1), comparable members x_m (n, V), whether derivatives are wanted) →
#: negative log-likelihood (n), p̄ (n, V), derivatives by z and s or None
LikelihoodRows = Callable[
    [Tensor, Tensor, Iterable[Tensor], bool], tuple[Tensor, Tensor, Tensor | None, Tensor | None]
]


def logit_space_loss(
    logits: Tensor,
    log_scales: Tensor,
    members: Iterable[Tensor] | Tensor,
    token_mask: Tensor | None = None,
    *,
    family: str = "laplace",
    comparable: str = "log_softmax",
    mean_weight: float = 1.0,
    likelihood_weight: float = 1.0,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the members' logits, beside KL(p̄‖softmax(z)).

    Args:
        logits: (..., V) the student's logits z, any floating dtype.
        log_scales: (..., V) s = ln b.
        members: M tensors (..., V) of logits or log-probabilities, or one tensor (M, ..., V).
        token_mask: (...) bool, True where a token counts; None counts all.
        family: ``laplace`` or ``gaussian``.
        comparable: ``log_softmax`` or ``centred``.
        mean_weight: of KL(p̄‖softmax(z)).
        likelihood_weight: of the likelihood, nats an entry of the vocabulary.
        temperature: members are read as logits/T.

    Returns:
        Loss sum (scalar; a density is in it, so it may be negative), differentiable once in both
        outputs, and the number of counted tokens.

    Raises:
        InputError: shapes differ, no member, an unknown choice, or logits of a member that are not
            finite (it is named).

    Example:
        >>> import torch
        >>> members = torch.tensor([[[0.5, -0.5]], [[1.5, -1.5]]])
        >>> loss_sum, tokens = logit_space_loss(
        ...     torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2), members,
        ...     family="laplace", comparable="centred", mean_weight=0.0,
        ... )
        >>> loss_sum  # |x − μ| = 0.5 at b = 1, and ln 2
        tensor(1.1931)
    """
    likelihood = family_rows(family, comparable)
    if log_scales.shape != logits.shape:
        raise InputError(
            f"expected a log-scale for each logit, {tuple(logits.shape)}; got "
            f"{tuple(log_scales.shape)}"
        )
    return member_likelihood_sum(
        likelihood,
        logits,
        log_scales,
        members,
        token_mask,
        is_centred=comparable == "centred",
        mean_weight=mean_weight,
        likelihood_weight=likelihood_weight,
        temperature=temperature,
    )


def family_rows(family: str, comparable: str) -> LikelihoodRows:
    """Return the likelihood of one family, with its derivatives."""
    if family not in FAMILIES:
        raise InputError(f"expected a family among {', '.join(FAMILIES)}, got {family!r}")
    if comparable not in COMPARABLE:
        raise InputError(
            f"expected logits made comparable by {' or '.join(COMPARABLE)}, got {comparable!r}"
        )
    is_centred, is_laplace = comparable == "centred", family == "laplace"
    constant = math.log(2) if is_laplace else 0.5 * math.log(2 * math.pi)

    def rows(
        z: Tensor, s: Tensor, members: Iterable[Tensor], wants_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        location = centre(z) if is_centred else torch.log_softmax(z, dim=-1)
        distance, pull, mean_probs = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
        count = 0
        for x in members:
            gap = location - x
            distance += gap.abs() if is_laplace else gap * gap
            pull += gap.sign() if is_laplace else gap
            mean_probs += torch.softmax(x, dim=-1) if is_centred else x.exp()
            count += 1
        require_members(count)
        # In units of the scale: (|x − μ|/b) or (x − μ)²/b², the mean over members.
        per_unit = torch.exp(-s if is_laplace else -2 * s)
        relative = distance.mul_(per_unit).div_(count)
        value = ((relative if is_laplace else 0.5 * relative) + s).mean(dim=-1) + constant
        mean_probs.div_(count)
        if not wants_gradient:
            return value, mean_probs, None, None
        V = z.shape[-1]
        of_location = pull.mul_(per_unit).div_(count * V)
        if is_centred:
            of_logits = centre(of_location)
        else:
            of_logits = of_location - location.exp() * of_location.sum(dim=-1, keepdim=True)
        return value, mean_probs, of_logits, (1 - relative) / V

    return rows


def centre(logits: Tensor) -> Tensor:
    """Return logits less their mean over the vocabulary (..., V)."""
    return logits - logits.mean(dim=-1, keepdim=True)


def member_likelihood_sum(
    likelihood: LikelihoodRows,
    logits: Tensor,
    log_scales: Tensor,
    members: Iterable[Tensor] | Tensor,
    token_mask: Tensor | None,
    *,
    is_centred: bool,
    mean_weight: float,
    likelihood_weight: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Sum mean_weight · KL(p̄‖softmax(z)) + likelihood_weight · likelihood over the tokens.

    Args:
        likelihood: of the members, with its derivatives.
        logits: (..., V).
        log_scales: (..., V) or (..., 1).
        members: as of :func:`logit_space_loss`.
        token_mask: (...) bool.
        is_centred: members are handed to ``likelihood`` centred, not as log-probabilities.
        mean_weight: of the divergence.
        likelihood_weight: of the likelihood.
        temperature: of the members.

    Raises:
        InputError: shapes differ, no member, or one that is not finite.
    """
    if not temperature > 0:
        raise InputError(f"expected a temperature above 0, got {temperature}")
    leading, V = logits.shape[:-1], logits.shape[-1]
    if V < 2:
        raise InputError(
            f"expected a vocabulary of at least 2 pieces, got logits of shape {tuple(logits.shape)}"
        )
    if token_mask is not None and token_mask.shape != leading:
        raise InputError(
            f"expected a token mask of shape {tuple(leading)}, got {tuple(token_mask.shape)}"
        )
    flat, scales = logits.reshape(-1, V), log_scales.reshape(-1, log_scales.shape[-1])
    index = None
    if token_mask is not None:
        index = token_mask.reshape(-1).bool().nonzero().squeeze(-1)
        flat, scales = flat[index], scales[index]
    dtype = torch.float64 if flat.dtype == torch.float64 else torch.float32
    sums: list[Tensor] = []
    streamed = _comparable(members, logits.shape, index, dtype, is_centred, temperature, sums)
    total: Tensor = _MemberLikelihood.apply(
        flat, scales, likelihood, streamed, mean_weight, likelihood_weight
    )
    # Looked at once, after the last of them: no synchronisation per member.
    for m, is_finite in enumerate(torch.isfinite(torch.stack(sums)).tolist(), start=1):
        if not is_finite:
            raise InputError(
                f"NaN or infinite logits from member {m}; check that checkpoint, and its dtype "
                "(float16 overflows where bfloat16 and float32 do not)"
            )
    return total, torch.tensor(flat.shape[0], device=flat.device)


def _comparable(
    members: Iterable[Tensor] | Tensor,
    shape: torch.Size,
    index: Tensor | None,
    dtype: torch.dtype,
    is_centred: bool,
    temperature: float,
    sums: list[Tensor],
) -> Iterable[Tensor]:
    """Give the members' rows that count, comparable, in float32 at least, one at a time.

    Each leaves a number in ``sums`` that is finite where all of its logits are.
    """
    for m, member in enumerate(members, start=1):
        if member.shape != shape:
            raise InputError(
                f"member {m} has logits of shape {tuple(member.shape)}, the student "
                f"{tuple(shape)}; student and teachers must share one vocabulary and batch"
            )
        rows = member.detach().reshape(-1, shape[-1])
        rows = (rows if index is None else rows[index]).to(dtype)
        if temperature != 1.0:
            rows = rows / temperature
        rows = centre(rows) if is_centred else torch.log_softmax(rows, dim=-1)
        # −∞ (a forbidden piece) is as bad as NaN here: no location is near it.
        sums.append(rows.sum())
        yield rows


class _MemberLikelihood(torch.autograd.Function):
    """The sum of the losses; both derivatives are computed beside the value, members read once."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        log_scales: Tensor,
        likelihood: LikelihoodRows,
        members: Iterable[Tensor],
        mean_weight: float,
        likelihood_weight: float,
    ) -> Tensor:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        wants_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        z, s = logits.to(dtype), log_scales.to(dtype)
        value, mean_probs, of_logits, of_scales = likelihood(z, s, members, wants_gradient)
        divergence, of_divergence = mean_kl_rows(z, (mean_probs,), wants_gradient)
        if of_logits is not None and of_scales is not None and of_divergence is not None:
            of_logits.mul_(likelihood_weight).add_(of_divergence, alpha=mean_weight)
            ctx.save_for_backward(of_logits, of_scales.mul_(likelihood_weight))
        ctx.dtypes = logits.dtype, log_scales.dtype
        total = mean_weight * divergence + likelihood_weight * value
        return total.sum(dtype=torch.float64).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this loss has a first derivative only; create_graph=True asks for a second"
            )
        of_logits, of_scales = ctx.saved_tensors
        scale = grad_output.to(of_logits.dtype)
        return (
            (of_logits * scale).to(ctx.dtypes[0]),
            (of_scales * scale).to(ctx.dtypes[1]),
            None,
            None,
            None,
            None,
        )


def require_members(count: int) -> None:
    """Raise an :class:`InputError` if there was no member."""
    if count < 1:
        raise InputError("expected at least one member, got none")
