"""The loss of predicted expectations: a divergence whose minimum is the expectation."""

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.rows import masked_sum

# Below it ln softplus(o) is o to rounding of float64; softplus itself may be 0 there in float32.
_LOWEST = -37.0


def expectations_loss(
    outputs: Tensor, targets: Tensor, token_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Σ_k [s_k − t_k + t_k ln(t_k/s_k)] per token, with s = softplus(o); 0 where s = t.

    It is the Bregman divergence of s ln s: whatever the spread of t, its expectation is minimised
    by s = E[t], as a squared error's is and an absolute error's is not (that one's minimum is the
    median). So targets may be single samples of a posterior. Unlike a squared error it counts an
    error relative to what is expected: 0.01 nats too much is much where 0.001 is right.

    Args:
        outputs: (..., K) o, any floating dtype.
        targets: (..., K) t, nats, at least 0.
        token_mask: (...) bool, True where a token counts; None counts all.

    Returns:
        Loss sum (scalar, nats) and the number of counted tokens.

    Raises:
        InputError: shapes differ.

    Example:
        >>> import torch
        >>> t = torch.tensor([[0.5, 2.0]])
        >>> loss_sum, tokens = expectations_loss(t.expm1().log(), t)
        >>> bool(loss_sum.abs() < 1e-6), int(tokens)
        (True, 1)
    """
    if outputs.shape != targets.shape:
        raise InputError(
            f"expected a target for each output, got outputs {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)}"
        )
    return masked_sum(expectations_rows, outputs, (targets,), token_mask)


def expectations_rows(
    o: Tensor, targets: tuple[Tensor, ...], wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the loss (n) and its derivative σ(o)(1 − t/s) (n, K); targets: t (n, K)."""
    t = targets[0]
    is_low = o < _LOWEST
    held = o.clamp_min(_LOWEST)
    s = torch.nn.functional.softplus(o)
    log_s = torch.where(is_low, o, torch.nn.functional.softplus(held).log())
    loss = (s - t + torch.xlogy(t, t) - t * log_s).sum(-1)
    if not wants_gradient:
        return loss, None
    # σ/s is 1 where o is low: then −t is left, however small s is.
    ratio = torch.where(
        is_low, torch.ones_like(o), torch.sigmoid(held) / torch.nn.functional.softplus(held)
    )
    return loss, torch.sigmoid(o) - t * ratio
