"""What else can be said of a predictive distribution while it is at hand, one number a row.

A forced text's rows (R, V) exist for one batch. Two things need all of a row and cannot be told
later from what is recorded of it: how it compares with the row of a second system, and what a
temperature would make of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.uncertainty.reading import row_chunks

#: 0.5 … 2, eight to the octave: what lies between is interpolated.
DEFAULT_TEMPERATURES = tuple(2.0 ** (step / 8) for step in range(-8, 9))

_ON_GPU = 1 << 22  # elements of a chunk: its float64 temporaries stay below 200 MB


def compare_predictions(log_probs: Tensor, second_log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(q‖p) of each row, and whether p and q have the same most probable piece.

    KL(q‖p) = Σ_v [q ln(q/p) − q + p], whose terms are at least 0 and 0 where p = q. Rows that are
    normalised up to rounding ε give the divergence up to ε² instead of ε, which is what Σ q ln(q/p)
    would lose where two systems are nearly the same. In float64, a chunk of rows at a time.

    Args:
        log_probs: (R, V) ln p; −∞ where p is 0.
        second_log_probs: (R, V) ln q, likewise.

    Returns:
        (R) nats, float64, at least 0, +∞ where p rules out what q does not; and (R) bool.

    Raises:
        InputError: the shapes differ: two systems need one vocabulary.

    Example:
        >>> import torch
        >>> p = torch.tensor([[0.5, 0.5, 0.0]]).log()
        >>> q = torch.tensor([[0.25, 0.75, 0.0]]).log()
        >>> compare_predictions(p, q)[0]
        tensor([0.1308], dtype=torch.float64)
    """
    if log_probs.shape != second_log_probs.shape:
        raise InputError(
            f"the scored system predicts {tuple(log_probs.shape)} (tokens, pieces), the one it is "
            f"compared with {tuple(second_log_probs.shape)}; both need one dictionary"
        )
    if log_probs.shape[0] == 0:
        return log_probs.new_empty(0, dtype=torch.float64), log_probs.new_empty(0).bool()
    chunks = (row_chunks(rows, _ON_GPU) for rows in (log_probs, second_log_probs))
    parts = [_divergence(p.double(), q.double()) for p, q in zip(*chunks, strict=True)]
    agrees = log_probs.argmax(dim=-1) == second_log_probs.argmax(dim=-1)
    return torch.cat(parts), agrees


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    p, q = log_p.exp(), log_q.exp()
    # q = 0 leaves p of the term, whatever −∞ − (−∞) would be.
    gap = torch.where(q > 0, log_q - log_p, 0.0)
    return gap.mul_(q).sub_(q).add_(p).sum(dim=-1).clamp_min_(0.0)


def log_partitions(log_probs: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Return ln Σ_v p(v)^(1/T) of each row, (K, R), for K temperatures.

    p_T(v) = p(v)^(1/T) / Σ p^(1/T), so that ln p_T(v) = ln p(v)/T − ln Σ p^(1/T) for every piece:
    one number a row says what a temperature does to all of it. p is what is decoded: softmax(z) is
    tempered as softmax(z/T); of an ensemble it is p̄ (or p_EP), not the members, and of a student
    that decodes with its mean α/α₀.

    Args:
        log_probs: (R, V) ln p; −∞ where p is 0.
        temperatures: each above 0.

    Example:
        >>> import torch
        >>> log_partitions(torch.tensor([[0.5, 0.25, 0.25]]).log(), [0.5, 1.0]).exp()
        tensor([[0.3750],
                [1.0000]])
    """
    chunks = row_chunks(log_probs, _ON_GPU) if log_probs.shape[0] else ()
    rows = [
        torch.cat([torch.logsumexp(chunk / temperature, dim=-1) for chunk in chunks])
        if chunks
        else log_probs.new_empty(0)
        for temperature in temperatures
    ]
    return torch.stack(rows)


def read_temperatures(text: str | None) -> tuple[float, ...]:
    """Read temperatures as a command line gives them: numbers with commas between, or ``default``.

    Returns:
        Ascending; none for None; :data:`DEFAULT_TEMPERATURES` for ``default``.

    Raises:
        InputError: something is not a number, or :func:`check_temperatures` refuses it.

    Example:
        >>> read_temperatures("1.5, 0.5")
        (0.5, 1.5)
    """
    if text is None:
        return ()
    if text.strip() == "default":
        return DEFAULT_TEMPERATURES
    try:
        temperatures = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"expected temperatures with commas between them, or default; got {text!r}"
        ) from error
    return check_temperatures(temperatures)


def check_temperatures(temperatures: Sequence[float]) -> tuple[float, ...]:
    """Return temperatures in ascending order.

    Raises:
        InputError: one is not a finite number above 0, or two are the same.
    """
    ordered = tuple(sorted(float(temperature) for temperature in temperatures))
    if not all(0.0 < temperature < float("inf") for temperature in ordered):
        raise InputError(f"expected temperatures above 0, got {', '.join(map(str, ordered))}")
    if len(set(ordered)) < len(ordered):
        raise InputError(f"expected different temperatures, got {', '.join(map(str, ordered))}")
    return ordered
