"""One tiny row through every operation: a library that a compiler got wrong is not used."""

import math

import torch
from torch import Tensor

from seqdistill.kernels.backend import RowBackend, RowLoss, RowTargets
from seqdistill.kernels.cpp.library import Library
from seqdistill.kernels.cpp.mixture import mix_member_, read_mixture_

# Neither a multiple of any vector's length nor shorter than one.
V = 19
INVERSE_W = 1 / 32

# Loss and Σ (v + 1) ∂L/∂z_v by kind and offset; a test computes them again with 100 digits.
STUDENT = {
    ("proxy_dirichlet", 1.0): (6.10062584, 10.6711286),
    ("proxy_dirichlet", 0.0): (251.275634, -440.229608),
    ("proxy_dirichlet_forward", 1.0): (3.63729957, 42.9016396),
    ("proxy_dirichlet_forward", 0.0): (4.66153405, 42.5030355),
    ("end2", 1.0): (-0.564693697, 527.424095),
    ("end2", 0.0): (50.6619589, 514.668764),
    ("mean_kl", 1.0): (6.40618473, 8.88158027),
}
# Σ p ln p, Σ (v + 1) p_v and Σ (v + 1) ln p_v of softmax(z).
MEMBER = (-1.70271317, 10.8815765, -975.208682)
# TU and RMI of p̄ and ℓ̄.
ENSEMBLE = (1.38628907, 0.452421712)

# TU, MI, EPKL, RMI, TU of the base and 1/α₀ of a Dirichlet student, by offset.
UNCERTAINTY = {
    1.0: (2.30622382, 0.11457919, 0.256983336, 0.142404145, 1.70271317, 0.014276852),
    0.0: (1.70271317, 0.0895378918, 0.352640725, 0.263102833, 1.70271317, 0.0195911514),
}

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def row() -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, p̄ and ℓ̄, (1, V) each: numbers that bfloat16 or float32 hold exactly."""
    v = torch.arange(V)
    logits = (7 * v % V) / 2 - 6
    mean_probs = 2.0 ** -(v + 1).clamp_max(V - 1)
    mean_log_probs = -1.0 - v % 5
    return logits[None], mean_probs[None], mean_log_probs[None]


def complaint(rows: RowBackend) -> str | None:
    """Return what a backend gets wrong, or None.

    Args:
        rows: the backend; its results are compared with values that are kept here.
    """
    logits, mean_probs, mean_log_probs = row()
    for dtype, tolerance in _TOLERANCE.items():
        sums = torch.zeros(1, V), torch.zeros(1, V), torch.zeros(1, 1)
        rows.add_members_([logits.to(dtype)], 1.0, 1.0, *sums)
        member = (sums[2].item(), _weighted(sums[0]), _weighted(sums[1]))
        if not _close(member, MEMBER, 1e-5):
            return f"the member kernel gives {member} instead of {MEMBER} in {dtype}"
        for (kind, offset), expected in STUDENT.items():
            z = logits.to(dtype, copy=True)
            targets = RowTargets(
                mean_probs=mean_probs,
                mean_log_probs=mean_log_probs,
                inverse_w=torch.tensor([INVERSE_W]),
                inverse_precision=torch.tensor([INVERSE_W]),
            )
            loss = rows.student_rows_(z, RowLoss(kind, offset), targets, True).loss.item()
            found = (loss, _weighted(z))
            if not _close(found, expected, tolerance):
                return f"the {kind} kernel gives {found} instead of {expected} in {dtype}"
    ensemble = tuple(x.item() for x in rows.ensemble_rows(mean_probs, mean_log_probs, sums[2][0]))
    if not _close(ensemble, ENSEMBLE, 1e-5):
        return f"the ensemble kernel gives {ensemble} instead of {ENSEMBLE}"
    return None


def complaint_of_uncertainty(library: Library) -> str | None:
    """Return what a library gets wrong of a Dirichlet student's uncertainty, or None."""
    for offset, expected in UNCERTAINTY.items():
        found = tuple(library.uncertainty(row()[0], offset).measures[:, 0].tolist())
        if not _close(found, expected, 1e-5):
            return f"the uncertainty kernel gives {found} instead of {expected} at offset {offset}"
    return None


def complaint_of_mixtures(library: Library) -> str | None:
    """Return what a library gets wrong of a mixture of members, or None."""
    logits, mean_probs, mean_log_probs = row()
    probs, log_probs, weighted_probs = torch.empty(3, 1, V)
    sums = probs, log_probs, weighted_probs
    one = torch.ones(1, dtype=torch.float64)
    made = mix_member_(library, logits, *sums, 0 * one, 2 * one, True)
    for _ in range(2):
        made = mix_member_(library, logits, *sums, one / 4, one, False)
    # The same member three times; with weights (2/4 + 1)/4 + 1.
    member = (-made[1].item(), _weighted(probs) / 3, _weighted(log_probs) / 3)
    weighted = _weighted(weighted_probs) / 1.375
    if not _close((*member, weighted), (*MEMBER, MEMBER[1]), 1e-5):
        return f"the mixing kernel gives {(*member, weighted)} instead of {MEMBER}"
    total = float(logits.double().logsumexp(-1))
    if not _close((made[0].item(),), (total,), 1e-5):
        return f"the mixing kernel gives a normaliser of {made[0].item()} instead of {total}"
    halves = mean_probs / 2
    found = read_mixture_(library, halves, 3 * mean_log_probs, 2 * one, 3, True)
    entropy, rmi, largest, least = found[:, 0].tolist()
    read = (entropy, rmi, largest, least * 2**18, _weighted(halves))
    expected = (*ENSEMBLE, 0.5, 1.0, _weighted(mean_probs.log()))
    if not _close(read, expected, 1e-5):
        return f"the kernel that reads a mixture gives {read} instead of {expected}"
    return None


def _weighted(values: Tensor) -> float:
    return float((values.double() * torch.arange(1, V + 1)).sum())


def _close(found: tuple[float, ...], expected: tuple[float, ...], tolerance: float) -> bool:
    return all(
        math.isclose(f, e, rel_tol=tolerance, abs_tol=tolerance)
        for f, e in zip(found, expected, strict=True)
    )
