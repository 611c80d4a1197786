"""Does a student err where its teachers do not? Change of error by group, and its unevenness.

Blakeney et al. (2021) ask of a compressed classifier how the false positives and false negatives of
every class have changed, relative to the model that it was made from. Of texts, the words of the
reference that a system lacks are *missed* (false negatives) and the words that it has and the
reference lacks are *false* (false positives). With x_g and x'_g their numbers in group g by the
reference system and by the student,

    δ_g = (x'_g − x_g)/x_g    for missed and for false words, and with their means m over G groups

    CEV = 1/G Σ_g [(δ_g^false − m^false)² + (δ_g^missed − m^missed)²]     combined error variance
    SDE = 1/G Σ_g |δ_g^missed − δ_g^false|                         symmetric distance error

CEV is 0 where every group has become worse (or better) by the same factor; SDE is 0 where missed
and false words have changed alike. The paper divides by the number of negatives of a class as well,
which is the same for both systems and drops out. A group without errors of the reference system has
no relative change and is left out of both.

Source: C. Blakeney, N. Huish, Y. Yan, Z. Zong, "Simon Says: Evaluating and Mitigating Bias in
Pruned Neural Networks with Knowledge Distillation", 2021.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from seqdistill.assessment.bootstrap import check_bootstrap
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.group_numbers import (
    SPREADS,
    GroupResult,
    by_group,
    chosen_grouping,
    estimated,
    present,
    quotient,
    totals,
)
from seqdistill.assessment.groups import PLAIN_WORDS, Grouping, GroupOptions
from seqdistill.assessment.hypothesis_files import HypothesisSet
from seqdistill.assessment.signatures import bootstrap_fields
from seqdistill.assessment.word_alignment import align_words
from seqdistill.errors import InputError

#: How words of two texts are matched.
MATCHINGS = ("bag", "aligned")


def assess_group_errors(
    student: HypothesisSet, reference: HypothesisSet,
    groups: GroupOptions | Grouping | None = None, *,
    matching: str = "bag", resamples: int = 1000, seed: int = 0,
) -> GroupResult:  # fmt: skip
    """Compare the words that two systems miss and add, by group.

    Numbers of each group: ``missed`` and ``false`` (words a reference word of the group, lower =
    better), the same of the reference system (``…_reference``), ``missed_change`` and
    ``false_change`` (relative: 0 = as the reference system, 0.1 = a tenth more errors); over all
    groups ``combined_error_variance`` and ``symmetric_distance_error`` (0 = even), with pivotal
    intervals, as noise makes them larger.

    Args:
        student: decoded hypotheses with references.
        reference: the same sentences, decoded by the reference system.
        groups: which, or how to make them; by length if not given.
        matching: ``bag``, a word is found if the other text has it anywhere (each occurrence
            matches one); ``aligned``, by the alignment of the word error rate.
        resamples: bootstrap resamples of sentences for the intervals, 0 for none.
        seed: of the bootstrap.

    Raises:
        InputError: the sets are not of the same sentences, one is of scored texts, a sentence has
            no reference, or groups cannot be made.
    """
    check_bootstrap(resamples, seed)
    if matching not in MATCHINGS:
        raise InputError(f"expected the matching {' or '.join(MATCHINGS)}, got {matching!r}")
    student.require_same_sentences(reference)
    for one in (student, reference):
        if one.hypotheses[0].forced:
            raise InputError(
                f"{one.where(0)}: a given text was scored here, not searched for, so it misses no "
                "words; give what was decoded, or scored texts of both systems"
            )
    texts = student.references()
    if texts != reference.references():
        raise InputError(
            f"{student.path} and {reference.path} have other references; two systems are compared "
            "against the same"
        )
    grouping = chosen_grouping(student, groups)
    words, missed, false = _count(student, texts, grouping, matching)
    _, missed_by, false_by = _count(reference, texts, grouping, matching)
    columns = {
        "missed": missed, "false": false, "missed_reference": missed_by, "false_reference": false_by
    }  # fmt: skip
    usable = (missed_by.sum(axis=0) > 0) & (false_by.sum(axis=0) > 0)

    def compute(tally: FloatArray) -> dict[str, FloatArray]:
        units = tally @ words  # (R, G)
        sums = {name: tally @ counts for name, counts in columns.items()}
        found = {name: quotient(column, units) for name, column in sums.items()}
        changes = {
            kind: quotient(sums[kind] - sums[f"{kind}_reference"], sums[f"{kind}_reference"])
            for kind in ("missed", "false")
        }
        found |= {f"{kind}_change": change for kind, change in changes.items()}
        spread = _spreads(changes["missed"][:, usable], changes["false"][:, usable])
        return by_group(found, grouping) | spread

    common = {
        "match": matching, "unit": "words", **PLAIN_WORDS.fields(), "by": grouping.name,
        "groups": len(grouping.labels), "used": int(usable.sum()), "n": len(texts),
        **bootstrap_fields(resamples, seed),
    }  # fmt: skip
    numbers = estimated(compute, len(texts), common, resamples, seed)
    return GroupResult(grouping, present(words), totals(words), numbers)


def _count(
    one: HypothesisSet, references: Sequence[str], grouping: Grouping, matching: str
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Words of the references, missed and false ones of each sentence and group, each (n, G)."""
    counts = np.zeros((3, len(references), len(grouping.labels)))
    match = _match_bags if matching == "bag" else _match_aligned
    pairs = zip(one.hypotheses, references, strict=True)
    for sentence, (hypothesis, reference) in enumerate(pairs):
        text, reference = PLAIN_WORDS(hypothesis.text), PLAIN_WORDS(reference)
        for kind, words in enumerate((reference.split(), *match(text, reference))):
            for word in words:
                counts[kind, sentence, grouping.group(sentence, word)] += 1
    return counts[0], counts[1], counts[2]


def _match_bags(text: str, reference: str) -> tuple[list[str], list[str]]:
    """Words that the text lacks, and words that the reference lacks, in any order."""
    mine, theirs = Counter(text.split()), Counter(reference.split())
    return list((theirs - mine).elements()), list((mine - theirs).elements())


def _match_aligned(text: str, reference: str) -> tuple[list[str], list[str]]:
    """The same at the places of the alignment with the fewest edits."""
    different = [pair for pair in align_words(text, reference) if pair[0] != pair[1]]
    missed = [pair.reference for pair in different if pair.reference is not None]
    return missed, [pair.hypothesis for pair in different if pair.hypothesis is not None]


def _spreads(missed: FloatArray, false: FloatArray) -> dict[str, FloatArray]:
    """CEV and SDE of changes (R, G), each (R,); NaN with fewer than two groups."""
    if missed.shape[1] < 2:
        return dict.fromkeys(SPREADS, np.full(len(missed), np.nan))
    variance = missed.var(axis=1) + false.var(axis=1)
    return dict(zip(SPREADS, (variance, np.abs(missed - false).mean(axis=1)), strict=True))
