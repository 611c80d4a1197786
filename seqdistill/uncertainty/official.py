"""What the public research code prints for a Dirichlet student: for comparison, not for use.

Source: the repository yandex-research/proxy-dirichlet-distillation that was released with
Ryabinin, Malinin & Gales (2021), fairseq/uncertainty.py and the task of its ensemble_distillation
example. Published tables hold these numbers; they are not the measures that their names say:

- the expectations are under softmax(z) where the formulas want α/α₀, while ψ is taken of α;
- mutual information comes out negated, DU − TU instead of TU − DU, and is then clamped at 0;
- 1e-10 inside logarithms bounds what a confident student can say of its tail.

Everything is float32, as there. Nothing is copied.
"""

import torch
from torch import Tensor

from seqdistill.uncertainty.sequence import DirichletTokenTerms, mean_over_positions

#: The epsilon of the research code, part of what it prints.
_EPSILON = 1e-10


def official_token_measures(logits: Tensor, offset: float) -> dict[str, Tensor]:
    """Return the research code's five token measures.

    Args:
        logits: (..., V) student logits z.
        offset: o in α = e^z + o.

    Returns:
        By name, each (...), float32, nats.

    Example:
        >>> import torch
        >>> found = official_token_measures(torch.zeros(3), 1.0)
        >>> float(found["official_mutual_information"]), float(found["official_epkl"])
        (0.0, 0.3333333432674408)
    """
    logits = logits.float()
    V = logits.shape[-1]
    # Clamped there too, by a share of the largest number: the precision stays finite.
    alpha = (logits.exp() + offset).clamp_max(torch.finfo(torch.float32).max / V - 1)
    precision = alpha.sum(dim=-1, keepdim=True)
    base = torch.softmax(logits, dim=-1)
    log_base = (base + _EPSILON).log()

    def digamma_gap(shift: float) -> Tensor:
        return torch.digamma(alpha + shift) - torch.digamma(precision + shift)

    expected_log = digamma_gap(1.0)
    return {
        "official_total_uncertainty": -(base * log_base).sum(dim=-1).clamp_max(0.0),
        "official_data_uncertainty": -(base * expected_log).sum(dim=-1).clamp_max(0.0),
        "official_mutual_information": (
            ((base + _EPSILON) * (log_base - expected_log)).sum(dim=-1).clamp_min(0.0)
        ),
        "official_epkl": (V - 1) / precision.squeeze(-1),
        "official_reverse_mutual_information": (
            (base * (log_base - digamma_gap(_EPSILON))).sum(dim=-1).clamp_min(0.0)
        ),
    }


def official_joint_measures(
    terms: DirichletTokenTerms, token_mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the research code's two joint measures, each (...), float64, nats a token.

    Args:
        terms: of the hypotheses' tokens, each (..., T).
        token_mask: (..., T) bool, True where a position counts; None counts all.

    Example:
        >>> import torch
        >>> terms = DirichletTokenTerms(*torch.tensor([[[-1.0]], [[-2.0]], [[0.5]]]))
        >>> float(official_joint_measures(terms)["official_joint_reverse_mutual_information"])
        -0.5
    """
    # ψ(α₀) − ψ(α_y) + ln b_y, from the same with ln(α_y/α₀) in the place of ln b_y.
    gap = terms.reverse_mutual_information - terms.log_probs_mean + terms.log_probs_base
    return {
        "official_joint_total_uncertainty": -mean_over_positions(terms.log_probs_base, token_mask),
        "official_joint_reverse_mutual_information": mean_over_positions(gap, token_mask),
    }
