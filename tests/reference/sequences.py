"""Every measure of an ensemble along a hypothesis, under PE and EP, by plain loops over floats."""

import math
from collections.abc import Sequence

from tests.reference import ensembles

Member = Sequence[Sequence[float]]  # L positions of V natural log-probabilities


def ensemble_measures(
    members: Sequence[Member], tokens: Sequence[int], combination: str = "pe"
) -> tuple[dict[str, list[float]], dict[str, float], list[float]]:
    """Token measures (name → L numbers), sequence measures, and ln p of what is decoded."""
    M, L = len(members), len(tokens)
    prefix = [0.0] * M  # ln P_m(y_<l)
    of_tokens: dict[str, list[float]] = {}
    log_probs = []
    log_pe = 0.0
    for position, token in enumerate(tokens):
        here = [member[position] for member in members]
        weights = _normalised(prefix)
        p_ep = [
            math.fsum(w * math.exp(m[v]) for w, m in zip(weights, here, strict=True))
            for v in range(len(here[0]))
        ]
        p_bar = ensembles.mean_probs(here)
        decoded = p_ep if combination == "ep" else p_bar
        du = ensembles.data_uncertainty(here)
        log_p_ep = [math.log(p) if p > 0 else -math.inf for p in p_ep]
        rmi_ep = math.fsum(ensembles.kl(p_ep, log_p_ep, m) for m in here) / M
        values = {
            "total_uncertainty": ensembles.total_uncertainty(here),
            "data_uncertainty": du,
            "mutual_information": ensembles.mutual_information(here),
            "epkl": ensembles.epkl(here),
            "reverse_mutual_information": ensembles.reverse_mutual_information(here),
            "total_uncertainty_ep": ensembles.entropy(p_ep),
            "mutual_information_ep": ensembles.entropy(p_ep) - du,
            "epkl_ep": ensembles.entropy(p_ep) - du + rmi_ep,
            "reverse_mutual_information_ep": rmi_ep,
            "entropy": ensembles.entropy(decoded),
            "negative_log_max_probability": -math.log(max(decoded)),
            "negative_log_probability": -math.log(decoded[token]),
        }
        for name, value in values.items():
            of_tokens.setdefault(name, []).append(value)
        log_probs.append(math.log(decoded[token]))
        log_pe += math.log(p_bar[token])
        prefix = [s + m[token] for s, m in zip(prefix, here, strict=True)]
    largest = max(prefix)
    log_ep = largest + math.log(math.fsum(math.exp(s - largest) for s in prefix) / M)
    cross_entropy = -math.fsum(prefix) / M / L
    scores = [s / L for s in prefix]
    mean_score = math.fsum(scores) / M
    of_sequence = {name: math.fsum(values) / L for name, values in of_tokens.items()}
    of_sequence |= {
        "joint_total_uncertainty_pe": -log_pe / L,
        "joint_total_uncertainty_ep": -log_ep / L,
        "joint_reverse_mutual_information_pe": cross_entropy + log_pe / L,
        "joint_reverse_mutual_information_ep": cross_entropy + log_ep / L,
        "member_score_variance": math.fsum((s - mean_score) ** 2 for s in scores) / M,
    }
    not_summed = ("entropy", "negative_", "member_")
    of_sequence |= {
        f"unnormalised_{name}": L * value
        for name, value in of_sequence.items()
        if not name.startswith(not_summed)
    }
    return of_tokens, of_sequence, log_probs


def _normalised(log_weights: Sequence[float]) -> list[float]:
    largest = max(log_weights)
    weights = [math.exp(w - largest) for w in log_weights]
    return [w / math.fsum(weights) for w in weights]
