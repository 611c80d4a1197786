"""What M members say about one token, by plain loops over Python floats."""

import math
from collections.abc import Sequence

Member = Sequence[float]  # natural log-probabilities, −inf for an impossible piece


def at_temperature(member: Member, temperature: float) -> list[float]:
    """Ln of p_m^{1/T} made to sum to 1 again."""
    scaled = [log_prob / temperature for log_prob in member]
    largest = max(scaled)
    log_total = largest + math.log(math.fsum(math.exp(value - largest) for value in scaled))
    return [value - log_total for value in scaled]


def mean_probs(members: Sequence[Member]) -> list[float]:
    """p̄_v = mean_m p_m(v)."""
    return [math.fsum(math.exp(lp) for lp in piece) / len(members) for piece in _pieces(members)]


def mean_log_probs(members: Sequence[Member]) -> list[float]:
    """ℓ̄_v = mean_m ln p_m(v); −inf where one member finds the piece impossible."""
    return [
        -math.inf if -math.inf in piece else math.fsum(piece) / len(members)
        for piece in _pieces(members)
    ]


def entropy(probs: Sequence[float]) -> float:
    """H(p) = −Σ p ln p."""
    return -math.fsum(p * math.log(p) for p in probs if p > 0)


def kl(p: Sequence[float], log_p: Sequence[float], log_q: Sequence[float]) -> float:
    """KL(p‖q) = Σ p (ln p − ln q)."""
    return math.fsum(
        a * (log_a - log_b) for a, log_a, log_b in zip(p, log_p, log_q, strict=True) if a > 0
    )


def total_uncertainty(members: Sequence[Member]) -> float:
    """TU = H(p̄)."""
    return entropy(mean_probs(members))


def data_uncertainty(members: Sequence[Member]) -> float:
    """DU = mean_m H(p_m)."""
    return math.fsum(entropy(_exp(member)) for member in members) / len(members)


def mutual_information(members: Sequence[Member]) -> float:
    """MI = mean_m KL(p_m‖p̄)."""
    log_mean = _log(mean_probs(members))
    return math.fsum(kl(_exp(m), m, log_mean) for m in members) / len(members)


def reverse_mutual_information(members: Sequence[Member]) -> float:
    """RMI = mean_m KL(p̄‖p_m); infinite where one member excludes what another allows."""
    mean = mean_probs(members)
    return math.fsum(kl(mean, _log(mean), m) for m in members) / len(members)


def epkl(members: Sequence[Member]) -> float:
    """EPKL = mean over all ordered pairs (i, j), i = j included, of KL(p_i‖p_j)."""
    pairs = [kl(_exp(p), p, q) for p in members for q in members]
    return math.fsum(pairs) / len(pairs)


def _pieces(members: Sequence[Member]) -> list[tuple[float, ...]]:
    return list(zip(*members, strict=True))


def _exp(member: Member) -> list[float]:
    return [math.exp(lp) for lp in member]


def _log(probs: Sequence[float]) -> list[float]:
    return [math.log(p) if p > 0 else -math.inf for p in probs]
