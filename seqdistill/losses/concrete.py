"""A Concrete distribution over the members' predictions: one temperature a token.

The student's logits z are the location in the space of log-probabilities and λ its precision:
members are read as softmax(z + g/λ) with standard Gumbel noise g, a Concrete distribution with
weights α = e^{λz} (Maddison, Mnih & Teh 2017). So softmax(z) is the prediction without noise,
whatever λ is, and a student that starts from a teacher's weights starts from its prediction. It is
also a logit-space student: Gumbel instead of Laplace, with one scale 1/λ a token.

The loss is the density of the members' log-probabilities, an entry of the vocabulary. With
u = λ (z − ln p_m), differences of ln p only, so that no constant of the logits counts,

    L = mean_m [ logsumexp(u) − mean(u) ] − (V − 1)/V ln λ − lnΓ(V)/V
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.logit_space import member_likelihood_sum, require_members


def concrete_loss(
    logits: Tensor,
    log_temperatures: Tensor,
    members: Iterable[Tensor] | Tensor,
    token_mask: Tensor | None = None,
    *,
    mean_weight: float = 1.0,
    likelihood_weight: float = 1.0,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the members under a Concrete, beside KL(p̄‖softmax(z)).

    Args:
        logits: (..., V) z, any floating dtype.
        log_temperatures: (..., 1) ln λ: higher = members closer together.
        members: M tensors (..., V) of logits or log-probabilities, or one tensor (M, ..., V).
        token_mask: (...) bool, True where a token counts; None counts all.
        mean_weight: of KL(p̄‖softmax(z)).
        likelihood_weight: of the likelihood, nats an entry of the vocabulary.
        temperature: members are read as logits/T.

    Returns:
        Loss sum (scalar; a density is in it, so it may be negative), differentiable once in both
        outputs, and the number of counted tokens.

    Raises:
        InputError: shapes differ, no member, or logits of a member that are not finite.

    Example:
        >>> import torch
        >>> members = torch.zeros(2, 1, 2)
        >>> loss_sum, _ = concrete_loss(torch.zeros(1, 2), torch.zeros(1, 1), members)
        >>> loss_sum  # −½ ln of the density ¼ at ln x = ln ½
        tensor(0.6931)
    """
    if log_temperatures.shape != (*logits.shape[:-1], 1):
        raise InputError(
            f"expected one log-temperature a token, {(*logits.shape[:-1], 1)}; got "
            f"{tuple(log_temperatures.shape)}"
        )
    return member_likelihood_sum(
        concrete_rows,
        logits,
        log_temperatures,
        members,
        token_mask,
        is_centred=False,
        mean_weight=mean_weight,
        likelihood_weight=likelihood_weight,
        temperature=temperature,
    )


def concrete_rows(
    z: Tensor, log_temperature: Tensor, members: Iterable[Tensor], wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the likelihood (n), p̄ and the derivatives by z (n, V) and ln λ (n, 1)."""
    V, degree = z.shape[-1], log_temperature.exp()
    spread = torch.zeros_like(z[..., 0])
    shares, mean_probs = torch.zeros_like(z), torch.zeros_like(z)
    turn = torch.zeros_like(log_temperature)
    count = 0
    for log_probs in members:
        # Centred first: what all entries share would otherwise cost digits of the differences.
        u = z - log_probs
        u = (u - u.mean(dim=-1, keepdim=True)) * degree
        log_q = torch.log_softmax(u, dim=-1)
        spread -= log_q.mean(dim=-1)  # logsumexp(u) − mean(u)
        mean_probs += log_probs.exp()
        if wants_gradient:
            q = log_q.exp_()
            turn += (q * u).sum(dim=-1, keepdim=True)
            shares += q
        count += 1
    require_members(count)
    constant = -math.lgamma(V) / V
    value = spread / count - (V - 1) / V * log_temperature.squeeze(-1) + constant
    mean_probs.div_(count)
    if not wants_gradient:
        return value, mean_probs, None, None
    of_logits = degree * (shares / count - 1 / V)
    return value, mean_probs, of_logits, turn / count - (V - 1) / V
