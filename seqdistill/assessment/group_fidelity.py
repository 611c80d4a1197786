"""Is a student like its teachers along the same references? Agreement and divergence by group."""

import numpy as np

from seqdistill.assessment.bootstrap import check_bootstrap
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.forced_sets import ForcedSet, require_same_tokens
from seqdistill.assessment.group_numbers import (
    GroupResult,
    by_group,
    chosen_grouping,
    estimated,
    present,
    quotient,
    totals,
)
from seqdistill.assessment.groups import Grouping, GroupOptions
from seqdistill.assessment.signatures import bootstrap_fields
from seqdistill.errors import InputError


def assess_group_fidelity(
    student: ForcedSet, reference: ForcedSet, groups: GroupOptions | Grouping | None = None, *,
    resamples: int = 1000, seed: int = 0,
) -> GroupResult:  # fmt: skip
    """Compare two scorings of the same references, by group of sentences.

    Numbers of each group: ``top1_agreement`` (share of positions where both find the same piece the
    most probable) and ``kl_divergence`` (KL(p_ref‖p), nats a token), both only where the student
    was scored against the reference system; ``nll_difference`` (ln p_ref − ln p of the reference
    tokens, nats); ``error`` and ``error_reference`` (share of positions where the most probable
    piece is not the reference's) and ``error_change``, relative.

    Args:
        student: scored references.
        reference: the same texts as the reference system scored them.
        groups: of sentences; which, or how to make them; by length if not given.
        resamples: bootstrap resamples of sentences for the intervals, 0 for none.
        seed: of the bootstrap.

    Raises:
        InputError: the two do not hold the same tokens, the student was scored against another
            system, or groups cannot be made.

    Source: S. Stanton and others, "Does Knowledge Distillation Really Work?", NeurIPS 2021 (average
    top-1 agreement and predictive divergence), here by group.
    """
    check_bootstrap(resamples, seed)
    require_same_tokens(student, reference)
    if student.against is not None and student.against != reference.source.model:
        raise InputError(
            f"{student.source.path} was scored against another system than that of "
            f"{reference.source.path}; score it against the reference system"
        )
    grouping = chosen_grouping(student.source, groups)
    if grouping.of_sentence is None:
        raise InputError(
            "scored texts are tokens, and groups by word are of words; group the sentences, by "
            "rarest-word or mean-word, or give decoded texts"
        )
    place = np.eye(len(grouping.labels))[grouping.of_sentence]  # (n, G)

    def spread(values: FloatArray | None) -> FloatArray | None:
        """Sums over the tokens of each sentence, in its group's column: (T,) → (n, G)."""
        return None if values is None else student.sums(values)[:, None] * place

    tokens = student.lengths[:, None] * place
    columns = {
        "top1_agreement": spread(student.agreement),
        "kl_divergence": spread(student.divergence),
        "nll_difference": spread(reference.log_probs - student.log_probs),
        "error": spread(None if student.correct is None else 1.0 - student.correct),
        "error_reference": spread(None if reference.correct is None else 1.0 - reference.correct),
    }
    known = {name: column for name, column in columns.items() if column is not None}

    def compute(tally: FloatArray) -> dict[str, FloatArray]:
        sums = {name: tally @ column for name, column in known.items()}
        units = tally @ tokens
        found = {name: quotient(column, units) for name, column in sums.items()}
        if {"error", "error_reference"} <= known.keys():
            change = sums["error"] - sums["error_reference"]
            found["error_change"] = quotient(change, sums["error_reference"])
        return by_group(found, grouping)

    common = {
        "mean": "tokens", "reference": reference.source.model.predictive,
        "predictive": student.source.model.predictive, "by": grouping.name,
        "groups": len(grouping.labels), "n": student.n, **bootstrap_fields(resamples, seed),
    }  # fmt: skip
    numbers = estimated(compute, student.n, common, resamples, seed)
    return GroupResult(grouping, present(tokens), totals(tokens), numbers)
