"""What is kept of a member's output at R rows, until the tokens chosen there are looked up.

A vocabulary-sized tensor a member is what an ensemble's decoding would need most of its memory for.
Where logits are one linear projection of features, the features are kept instead, D numbers a row:
the logits are made when they are read, and those of single tokens again when they were chosen.
"""

from typing import Protocol

import torch
from torch import Tensor


class MemberRows(Protocol):
    """One member's logits, or log-probabilities, at R rows.

    Attributes:
        V: size of the vocabulary.
        log_total: (R,) ln Σ e^logits, float64, once the rows were read; None before.
        is_free: what :meth:`whole` returns is new memory, free to be changed.
    """

    V: int
    log_total: Tensor | None
    is_free: bool

    def whole(self, rows: Tensor | None = None) -> Tensor:
        """Return (R, V), or those (N, V) of rows (N,); float32 at least."""
        ...

    def at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return (N,) those of tokens (N,) at rows (N,); float32 at least."""
        ...


class KeptRows:
    """Rows that were kept whole.

    Args:
        values: (R, V), any floating dtype; not changed.
    """

    is_free = False

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.V = values.shape[-1]
        self.log_total: Tensor | None = None

    def whole(self, rows: Tensor | None = None) -> Tensor:
        """See :class:`MemberRows`."""
        return wide(self.values if rows is None else self.values[rows])

    def at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """See :class:`MemberRows`."""
        return wide(self.values[rows, tokens])


class ProjectedRows:
    """Rows that are features · weightᵀ + bias, made when they are asked for.

    Args:
        features: (R, D).
        weight: (V, D) of the same dtype.
        bias: (V), or None.

    Example:
        >>> rows = ProjectedRows(torch.tensor([[1.0, 2.0]]), torch.eye(2), None)
        >>> rows.whole(), rows.at(torch.tensor([1]), torch.tensor([0]))
        (tensor([[1., 2.]]), tensor([2.]))
    """

    is_free = True

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.features, self.weight, self.bias = features, weight, bias
        self.V = weight.shape[0]
        self.log_total: Tensor | None = None

    def whole(self, rows: Tensor | None = None) -> Tensor:
        """See :class:`MemberRows`."""
        features = self.features if rows is None else self.features[rows]
        return wide(torch.nn.functional.linear(features, self.weight, self.bias))

    def at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """See :class:`MemberRows`."""
        values = (wide(self.features[rows]) * wide(self.weight[tokens])).sum(dim=-1)
        if self.bias is not None:
            values = values + wide(self.bias[tokens])
        # Rounded as the product is: a token's logit is one number, wherever it comes from.
        return wide(values.to(self.features.dtype))


def rows_of(output: "Tensor | MemberRows") -> MemberRows:
    """Return an output as rows; a tensor is kept."""
    return KeptRows(output) if isinstance(output, Tensor) else output


def token_log_probs(output: "Tensor | MemberRows", tokens: Tensor, rows: Tensor) -> Tensor:
    """Return (N,) ln p of tokens (N,) at rows (N,) of a member's log-probabilities.

    Rows that were read may lack any constant: they know their ``log_total``.
    """
    given = rows_of(output)
    log_probs = given.at(tokens, rows)
    if given.log_total is None:
        return log_probs
    return (log_probs.double() - given.log_total[rows]).to(log_probs.dtype)


def log_probs_of(output: "Tensor | MemberRows") -> Tensor:
    """Return a member's (R, V) log-probabilities; a tensor holds them already."""
    if isinstance(output, Tensor):
        return output
    logits = output.whole()
    log_probs = torch.log_softmax(logits, dim=-1)
    output.log_total = logits.amax(dim=-1).double() - log_probs.amax(dim=-1).double()
    return log_probs


def wide(values: Tensor) -> Tensor:
    """Return values in float32 at least."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
