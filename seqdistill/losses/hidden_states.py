"""Hidden-state distillation: a linear map of the student's states meets a teacher's, compressed."""

import torch
from torch import Tensor

from seqdistill.errors import InputError


def hidden_state_loss(mapped: Tensor, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Half the mean square of the difference, per state (Romero et al. 2015's hint, compressed).

    Stored states have a mean square of about 1, so the loss of a map that gives 0 is about 0.5, and
    one minus twice the loss is the share of their variance that the student's states explain.

    Args:
        mapped: (n, w) the student's states after its map.
        stored: (n, w) the teacher's.

    Returns:
        The sum over the n states, and n.

    Raises:
        InputError: shapes differ.

    Example:
        >>> import torch
        >>> total, count = hidden_state_loss(torch.zeros(3, 2), torch.ones(3, 2))
        >>> float(total), int(count)
        (1.5, 3)
    """
    if mapped.shape != stored.shape or mapped.dim() != 2:
        raise InputError(
            f"expected mapped and stored states of one shape (n, w), got {tuple(mapped.shape)} and "
            f"{tuple(stored.shape)}"
        )
    wide = torch.promote_types(mapped.dtype, torch.float32)
    gap = mapped.to(wide) - stored.to(wide)
    return 0.5 * gap.square().mean(dim=-1).sum(), torch.tensor(len(mapped), device=mapped.device)
