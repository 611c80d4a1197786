"""Is the student like its ensemble? Compared token by token along the same scored references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqdistill.assessment import spearman
from seqdistill.assessment.fidelity import assess_fidelity
from seqdistill.assessment.forced_sets import forced_set
from seqdistill.assessment.hypothesis_files import HypothesisSet
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis

COUNTERPARTS = {"total_uncertainty_base": "total_uncertainty"}
"""What an ensemble calls a measure that only students have under that name."""


@dataclass(frozen=True)
class Fidelity:
    """How a system's tokens relate to the reference system's.

    Attributes:
        reference: the system that it is compared with.
        log_prob_gap: mean |ln p − ln p_reference| of the reference tokens (nats), 0 = the same.
        spearman: by measure, rank correlation of the token uncertainty, 1 = the same order; None
            where one of the two is constant.
        n_tokens: tokens compared.
        kl_divergence: mean KL(p_reference‖p) of a token (nats), 0 = the same, with its interval and
            signature; None where the system was not scored against the reference system.
        top1_agreement: share of tokens where both find the same piece the most probable, likewise.
    """

    reference: str
    log_prob_gap: float
    n_tokens: int
    spearman: Mapping[str, float | None] = field(default_factory=dict)
    kl_divergence: dict[str, Any] | None = None
    top1_agreement: dict[str, Any] | None = None


def fidelity(
    forced: Sequence[Hypothesis],
    reference_forced: Sequence[Hypothesis],
    reference: str,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Fidelity:
    """Compare two scorings of the same texts.

    Args:
        forced: the references as the system scored them, ordered by sentence.
        reference_forced: the same texts as the reference system scored them.
        reference: its name.
        resamples: bootstrap resamples of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: the two do not hold the same tokens.
    """
    if [h.tokens for h in forced] != [h.tokens for h in reference_forced]:
        raise InputError(
            f"the scored texts differ from those of {reference}; "
            "both must come from one set, with one dictionary"
        )
    gap = _flat([h.token_log_probs for h in forced]) - _flat(
        [h.token_log_probs for h in reference_forced]
    )
    theirs = set.intersection(*(set(h.token_uncertainty) for h in reference_forced))
    ours = set.intersection(*(set(h.token_uncertainty) for h in forced))
    pairs = {name: COUNTERPARTS.get(name, name) for name in sorted(ours)}
    correlations = {
        name: spearman(
            _flat([h.token_uncertainty[name] for h in forced]),
            _flat([h.token_uncertainty[counterpart] for h in reference_forced]),
        )
        for name, counterpart in pairs.items()
        if counterpart in theirs
    }
    exact: dict[str, Any] = {}
    if all(h.against is not None for h in forced):
        mine, others = (
            forced_set(HypothesisSet.of(f"references scored by {name}", rows))
            for name, rows in (("the system", forced), (reference, reference_forced))
        )
        found = assess_fidelity(mine, others, measures=(), resamples=resamples, seed=seed).to_dict()
        exact = {name: found[name] for name in ("kl_divergence", "top1_agreement")}
    return Fidelity(reference, float(np.abs(gap).mean()), len(gap), correlations, **exact)


def _flat(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])
