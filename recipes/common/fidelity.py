"""Is the student like its ensemble? Compared token by token along the same scored references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from seqdistill.assessment import spearman
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
    """

    reference: str
    log_prob_gap: float
    n_tokens: int
    spearman: Mapping[str, float | None] = field(default_factory=dict)


def fidelity(
    forced: Sequence[Hypothesis], reference_forced: Sequence[Hypothesis], reference: str
) -> Fidelity:
    """Compare two scorings of the same texts.

    Args:
        forced: the references as the system scored them, ordered by sentence.
        reference_forced: the same texts as the reference system scored them.
        reference: its name.

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
    return Fidelity(reference, float(np.abs(gap).mean()), len(gap), correlations)


def _flat(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])
