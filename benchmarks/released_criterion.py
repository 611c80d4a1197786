"""The named baseline: what the paper's public research code computes, in code of our own.

Source: Ryabinin, Malinin & Gales (2021), "Scaling Ensemble Distribution Distillation to Many
Classes with Proxy Targets"; repository yandex-research/proxy-dirichlet-distillation, commit
39cd2e9241da01044a17aa3b3ab3564ea921bca6, fairseq/examples/ensemble_distillation: the task that
gathers the members' logits, the criterion ``rkl_dirichlet_proxy_distillation`` and the options of
its README (``--target-concentration mkl --model-offset 1 --target-offset 1``). Nothing is copied;
what is reproduced, and why it matters here:

- **All members' logits at once**, (B, T, M, V), then their probabilities and log-probabilities of
  the same size, and the temporaries of three measures (EPKL, MKL, MI), of which the loss needs one:
  memory and time of order M · N · V several times over.
- **The student in float64 through autograd**: α = e^z + 1 clamped, ψ and lnΓ of (B, T, V) with the
  trigamma and digamma of their derivatives, ψ(α) evaluated twice: about 10 ms a token at V = 40,000
  on one core. Here ``dtype`` may be float32, to show in ``stability.py`` why it is not there.
- **Its weight**: 1/(β̃₀ + V + ε) + 1e-11, the normalisation that this project calls ``total``.
- **Its epsilons**: ε, float32's 1.2e-7, inside every ψ and lnΓ and under the precision. Harmless at
  moderate logits: a test holds the gradient against this project's loss.
- **Its faults**: lnΓ(α) − (α − 1) ψ(α) and its derivative cancel numbers of size α ln α; float64
  has lost the gradient where one logit passes 40. The clamp divides float64's largest number by
  the number of positions where it means classes; that is kept as it is.
- **Its checks**: every intermediate result is tested for finiteness, a pass over (B, T, V) each.
- **Its log**: sums of the ensemble's measures and the reference's negative log-likelihood, which
  needs a log-softmax of the student's logits inside the graph.

Left out, because a benchmark would not see it: float16 options, the sum of label smoothing whose
ε is 0, the reduction of the log over workers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

#: ε of the research code.
EPSILON = torch.finfo(torch.float32).eps

#: Added to the weight of the entropy there.
WEIGHT_FLOOR = 1e-11


@dataclass(frozen=True)
class ReleasedStatistics:
    """What the research code keeps of the ensemble for each token.

    Attributes:
        probs: (B, T, M, V).
        log_probs: (B, T, M, V).
        mean_probs: (B, T, V).
        mkl: (B, T) nats; this project's reverse mutual information.
        epkl: (B, T) nats.
        mutual_information: (B, T) nats.
        precision: (B, T) β̃₀ = (V − 1)/(2 MKL + ε).
    """

    probs: Tensor
    log_probs: Tensor
    mean_probs: Tensor
    mkl: Tensor
    epkl: Tensor
    mutual_information: Tensor
    precision: Tensor


@torch.no_grad()
def gather_member_logits(
    members: Iterable[Tensor], count: int, shape: tuple[int, int, int]
) -> Tensor:
    """Return the members' logits in one tensor (B, T, M, V), as the research code's task does.

    Args:
        members: gives M tensors one after another, each viewable as (B, T, V).
        count: M.
        shape: (B, T, V).
    """
    B, T, V = shape
    gathered: Tensor | None = None
    for position, logits in enumerate(members):
        if gathered is None:
            gathered = logits.new_empty((B, T, count, V), dtype=torch.float32)
        gathered[:, :, position] = logits.view(B, T, V)
    if gathered is None:
        raise ValueError("expected at least one member")
    return gathered


@torch.no_grad()
def released_statistics(member_logits: Tensor) -> ReleasedStatistics:
    """Return the ensemble's measures, with every intermediate tensor the research code makes.

    Args:
        member_logits: (B, T, M, V) float32.
    """
    V = member_logits.shape[-1]
    probs = torch.softmax(member_logits, dim=-1, dtype=torch.float32)
    mean_probs = probs.mean(dim=2)
    log_probs = torch.log_softmax(member_logits, dim=-1, dtype=torch.float32)

    cross_entropy = -(mean_probs * log_probs.mean(dim=2)).sum(-1)
    epkl = cross_entropy - _mean_entropy(probs, log_probs)
    every_mean = mean_probs.unsqueeze(2).expand_as(probs)
    mkl = torch.nn.functional.kl_div(log_probs, every_mean, reduction="none").sum(3).mean(2)
    # The mean entropy a second time: its measures do not share what they compute.
    entropy_of_mean = -(mean_probs * mean_probs.log()).sum(-1)
    mutual_information = entropy_of_mean - _mean_entropy(probs, log_probs)

    precision = (V - 1) / (2 * mkl + EPSILON)
    return ReleasedStatistics(
        probs, log_probs, mean_probs, mkl, epkl, mutual_information, precision
    )


def released_student_loss(
    logits: Tensor,
    mean_probs: Tensor,
    precision: Tensor,
    padding: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return the summed reverse KL of the research code; autograd gives its gradient.

    L = −Σ p̄ (ψ(α) − ψ(α₀)) − [Σ lnΓ(α) − lnΓ(α₀) − Σ (α − 1)(ψ(α) − ψ(α₀))]/(β̃₀ + V) with
    α = e^z + 1 and the epsilons described at the top of this file.

    Args:
        logits: (B, T, V) of the student.
        mean_probs: (B, T, V) p̄.
        precision: (B, T) β̃₀, without the V that the offset of the target adds.
        padding: (B, T) True where a token does not count.
        dtype: float64 there; float32 for comparison.

    Raises:
        FloatingPointError: where the research code's assertions would stop.
    """
    _, T, V = logits.shape
    _require_finite(logits, "the student's logits")
    largest = torch.finfo(dtype).max / T - 1
    alpha = torch.clamp(logits.to(dtype).exp() + 1, max=largest)
    total = alpha.sum(-1, dtype=dtype)
    _require_finite(alpha, "the concentrations")
    _require_finite(total, "the precision")

    expected_log = torch.digamma(alpha + EPSILON) - torch.digamma(total.unsqueeze(-1) + EPSILON)
    fit = -(mean_probs * expected_log).sum(-1)
    _require_finite(fit, "the fit")
    # The difference of digammas again, as there: it is not kept from the line above.
    expected_log = torch.digamma(alpha + EPSILON) - torch.digamma(total.unsqueeze(-1) + EPSILON)
    log_normaliser = torch.lgamma(alpha + EPSILON).sum(-1) - torch.lgamma(total + EPSILON)
    entropy = log_normaliser - ((alpha - 1) * expected_log).sum(-1)
    _require_finite(entropy, "the differential entropy")

    cost = fit - entropy * (1 / (precision + V + EPSILON) + WEIGHT_FLOOR)
    _require_finite(cost, "the loss")
    if padding is not None:
        cost = cost.masked_fill(padding, 0.0)
    return cost.sum()


def released_criterion(
    logits: Tensor, member_logits: Tensor, references: Tensor, padding: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss sum of the research code's criterion, and what it logs.

    Args:
        logits: (B, T, V) of the student, float32, in a graph.
        member_logits: (B, T, M, V) float32.
        references: (B, T) reference pieces.
        padding: (B, T) True where a token does not count.
    """
    statistics = released_statistics(member_logits)
    loss = released_student_loss(logits, statistics.mean_probs, statistics.precision, padding)
    log_probs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    nll = -log_probs.gather(-1, references.unsqueeze(-1)).squeeze(-1)
    if padding is not None:
        nll = nll.masked_fill(padding, 0.0)
    logged = {
        "loss": float(loss.detach()),
        "nll_loss": float(nll.sum().detach()),
        "ensemble_mkl": float(statistics.mkl.sum()),
        "ensemble_epkl": float(statistics.epkl.sum()),
        "ensemble_precision": float(statistics.precision.sum()),
    }
    return loss, logged


def _mean_entropy(probs: Tensor, log_probs: Tensor) -> Tensor:
    return -(probs * log_probs).sum(-1).mean(2)


def _require_finite(values: Tensor, what: str) -> None:
    if not torch.isfinite(values).all():
        raise FloatingPointError(f"{what} are not all finite")
