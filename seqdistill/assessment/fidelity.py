"""Is the student like its ensemble? Two scorings of the same references, token by token.

Exact, where the system was scored *against* the reference system (`seqdistill score --against`), so
that both distributions were at hand: ``kl_divergence`` and ``top1_agreement``.

Without that, what is recorded of a token is the probability of the reference token, the largest
probability, whether the most probable piece is the reference's, and the measures. Then these two
have bounds only, and the names say so:

- KL(p̄‖p) needs both distributions. Splitting the vocabulary into the reference token and the rest
  can only lose divergence (the data-processing inequality), so ``kl_lower_bound`` is a true bound,
  the mean of the Kullback-Leibler divergence between the two coins. On texts *sampled* from the
  ensemble, ``nll_difference`` would be an unbiased estimate of the divergence a token.
- Where both are right they agree on the most probable piece, where one is right they do not, and
  where both are wrong it is unknown: ``top1_agreement_low`` counts those as disagreement,
  ``top1_agreement_high`` as agreement.
"""

from collections.abc import Container, Iterator, Mapping

import numpy as np

from seqdistill.assessment.bootstrap import (
    CHUNK,
    Estimate,
    IntArray,
    check_bootstrap,
    estimate,
    tallies,
)
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.correlation import spearman
from seqdistill.assessment.forced_sets import ForcedSet, require_same_tokens
from seqdistill.assessment.hypothesis_files import describe_model, order_measures
from seqdistill.assessment.hypothesis_sets import uncertainty_of
from seqdistill.assessment.numbers import Numbers
from seqdistill.assessment.signatures import bootstrap_fields, measure_fields, sign
from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo

# What float32 can tell of 1 − q. A smaller one would make the bound larger, never false.
_LEAST_TAILS = float(np.finfo(np.float32).epsneg)

_MEANS: dict[str, dict[str, object]] = {
    "log_prob_gap": {"def": "abs(ln p−ln p_ref)", "unit": "nats"},
    "nll_difference": {"def": "ln p_ref−ln p", "unit": "nats"},
    "confidence_gap": {"def": "abs(max p−max p_ref)"},
}
_EXACT: dict[str, dict[str, object]] = {
    "kl_divergence": {"def": "KL(p_ref‖p)", "unit": "nats"},
    "top1_agreement": {"def": "argmax p=argmax p_ref"},
}
_BOUNDS: dict[str, dict[str, object]] = {
    "kl_lower_bound": {"def": "KL of token against rest", "unit": "nats"},
    "top1_agreement_low": {"unknown": "disagree"},
    "top1_agreement_high": {"unknown": "agree"},
}


def assess_fidelity(
    student: ForcedSet,
    reference: ForcedSet,
    *,
    measures: Container[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Numbers:
    """Compare a system with a reference system (its ensemble) on the same scored tokens.

    - ``log_prob_gap``: mean |ln p − ln p_ref| of the reference tokens (nats), 0 = the same;
    - ``nll_difference``: mean ln p_ref − ln p, above 0 where the reference system knows better;
    - ``confidence_gap``: mean |max p − max p_ref|;
    - ``kl_divergence``: mean KL(p_ref‖p) (nats), 0 = the same, and ``top1_agreement``: share of
      positions where both find the same piece the most probable, 1 = the same; where the system was
      scored against the reference system;
    - ``kl_lower_bound``, ``top1_agreement_low`` and ``_high`` where it was not: see the module;
    - ``spearman_token:MEASURE``, ``spearman_sequence:MEASURE``: rank correlation of a measure over
      tokens, and over sentences; MEASURE is the student's. What only a Dirichlet student has
      (``…_base``) is compared with what the reference system has in its place.

    Args:
        student: scored references.
        reference: the same texts as the reference system scored them.
        measures: whose rank correlations are wanted; None: all that the student has.
        resamples: bootstrap resamples of the intervals, over sentences; 0 for none.
        seed: of the bootstrap.

    Returns:
        Those numbers; None for what was not recorded, and for the correlation of a constant.

    Raises:
        InputError: the two do not hold the same tokens, the system was scored against another one
            than the reference system, or resamples or seed are negative.
    """
    check_bootstrap(resamples, seed)
    require_same_tokens(student, reference)
    if student.against is not None and student.against != reference.source.model:
        raise InputError(
            f"{student.source.path} was scored against {describe_model(student.against)}, but "
            f"{reference.source.path} is of {describe_model(reference.source.model)}; score it "
            "against the reference system"
        )
    common = _common(student, reference.source.model, resamples, seed)
    found = _means(student, _per_token(student, reference), common, resamples, seed)
    for level, measure, mine, theirs in _pairs(student, reference):
        if measures is not None and measure not in measures:
            continue
        name = f"spearman_{level}:{measure}"
        index = student.sentence if level == "token" else np.arange(student.n)
        fields = measure_fields(measure) if level == "sequence" else {"measure": measure}
        found.signatures[name] = sign({**fields, "metric": "spearman", "level": level, **common})
        value = spearman(mine, theirs) if len(mine) > 1 else None
        ranks = _Ranks(mine), _Ranks(theirs)
        chunk = max(1, CHUNK // len(mine)) * student.n
        drawn = [
            _spearman(*ranks, tally[:, index])
            for tally in tallies(student.n, resamples, seed, chunk=chunk)
        ]
        found.replicates[name] = np.concatenate([np.empty(0), *drawn])
        found.numbers[name] = None if value is None else estimate(value, found.replicates[name])
    return found


def exact_fidelity(student: ForcedSet, *, resamples: int = 1000, seed: int = 0) -> Numbers | None:
    """Return ``kl_divergence`` and ``top1_agreement`` with the system that the scoring was against.

    Args:
        student: scored references.
        resamples: bootstrap resamples of the intervals, over sentences; 0 for none.
        seed: of the bootstrap.

    Returns:
        Both numbers; None where it was scored against no other system.
    """
    check_bootstrap(resamples, seed)
    if student.against is None:
        return None
    common = _common(student, student.against, resamples, seed)
    return _means(student, _exact(student), common, resamples, seed)


def _common(
    student: ForcedSet, reference: ModelInfo, resamples: int, seed: int
) -> dict[str, object]:
    """Fields of every signature."""
    return {
        "predictive": student.source.model.predictive,
        "reference": reference.predictive,
        "n": len(student.log_probs),
        "sents": student.n,
        **bootstrap_fields(resamples, seed),
    }


def _means(
    student: ForcedSet,
    columns: Mapping[str, FloatArray | None],
    common: Mapping[str, object],
    resamples: int,
    seed: int,
) -> Numbers:
    """Mean of each column (T,) over tokens, with intervals over sentences."""
    numbers: dict[str, Estimate | None] = {}
    replicates: dict[str, FloatArray] = {}
    signatures: dict[str, str] = {}
    lengths = student.lengths
    for name, values in columns.items():
        definition = (_MEANS | _EXACT | _BOUNDS)[name]
        signatures[name] = sign({"metric": name, "mean": "tokens", **definition, **common})
        if values is None:
            numbers[name], replicates[name] = None, np.full(resamples, np.nan)
            continue
        sums = student.sums(values)
        drawn = [
            (tally @ sums) / (tally @ lengths) for tally in tallies(student.n, resamples, seed)
        ]
        replicates[name] = np.concatenate([np.empty(0), *drawn])
        numbers[name] = estimate(float(sums.sum() / lengths.sum()), replicates[name])
    return Numbers(numbers, replicates, signatures, student.n, resamples, seed)


def counterpart(measure: str, names: Container[str]) -> str | None:
    """Return what another system calls a measure, None where it has none.

    Args:
        measure: of a student.
        names: those of the other system.

    Example:
        >>> counterpart("joint_total_uncertainty_base", {"joint_total_uncertainty_pe"})
        'joint_total_uncertainty_pe'
    """
    stem = measure.removesuffix("_base")
    candidates = [measure] if stem == measure else [measure, f"{stem}_pe", stem]
    return next((name for name in candidates if name in names), None)


class _Ranks:
    """Average ranks of a value under any number of draws of each of T tokens."""

    def __init__(self, values: FloatArray) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        is_new = np.r_[True, ordered[1:] != ordered[:-1]]
        self._starts = np.flatnonzero(is_new)
        self._group = np.empty(len(values), dtype=np.int64)
        self._group[self._order] = np.cumsum(is_new) - 1

    def centred(self, draws: IntArray) -> FloatArray:
        """Rank minus the mean rank of each token, (R, T), where token t is drawn (R, T) times."""
        size = np.add.reduceat(draws[:, self._order], self._starts, axis=1)
        # Twice the middle rank is 2·upto − size + 1, and twice the mean rank is total + 1.
        twice = 2 * np.cumsum(size, axis=1) - size - size.sum(axis=1, keepdims=True)
        centred: FloatArray = twice[:, self._group] / 2.0
        return centred


def _spearman(one: _Ranks, other: _Ranks, draws: IntArray) -> FloatArray:
    """Rank correlation of each resample, (R,); NaN where one side is constant."""
    x, y = one.centred(draws), other.centred(draws)
    covariance = np.einsum("rt,rt,rt->r", draws, x, y)
    spread = np.sqrt(np.einsum("rt,rt,rt->r", draws, x, x) * np.einsum("rt,rt,rt->r", draws, y, y))
    correlation: FloatArray = np.divide(
        covariance, spread, out=np.full(len(draws), np.nan), where=spread > 0.0
    )
    return correlation


def _exact(student: ForcedSet) -> dict[str, FloatArray | None]:
    return dict(zip(_EXACT, (student.divergence, student.agreement), strict=True))


def _per_token(student: ForcedSet, reference: ForcedSet) -> dict[str, FloatArray | None]:
    """What is averaged over tokens, each (T,)."""
    difference = student.log_probs - reference.log_probs
    values: dict[str, FloatArray | None] = dict.fromkeys(_MEANS)
    values["log_prob_gap"] = np.abs(difference)
    values["nll_difference"] = -difference
    if student.confidence is not None and reference.confidence is not None:
        values["confidence_gap"] = np.abs(student.confidence - reference.confidence)
    if student.against is not None:
        return values | _exact(student)
    values |= dict.fromkeys(_BOUNDS)
    values["kl_lower_bound"] = _coin_divergence(reference.log_probs, student.log_probs)
    if student.correct is not None and reference.correct is not None:
        both = student.correct * reference.correct
        values["top1_agreement_low"] = both
        values["top1_agreement_high"] = (student.correct == reference.correct).astype(np.float64)
    return values


def _coin_divergence(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
    """KL between coins of heads p and q: p ln(p/q) + (1−p) ln((1−p)/(1−q)), elementwise."""
    log_p, log_q = np.minimum(log_p, 0.0), np.minimum(log_q, 0.0)  # rounding lifts above 0
    tails_p, tails_q = -np.expm1(log_p), np.maximum(-np.expm1(log_q), _LEAST_TAILS)
    ratio = np.divide(tails_p, tails_q, out=np.ones_like(tails_p), where=tails_p > 0.0)
    value = np.exp(log_p) * (log_p - log_q) + tails_p * np.log(ratio)
    return np.asarray(np.maximum(value, 0.0), dtype=np.float64)


def _pairs(
    student: ForcedSet, reference: ForcedSet
) -> Iterator[tuple[str, str, FloatArray, FloatArray]]:
    """Level, name, and the measure of the student and of the reference system."""
    for measure in order_measures(student.uncertainty):
        other = counterpart(measure, reference.uncertainty)
        if other is not None:
            yield "token", measure, student.uncertainty[measure], reference.uncertainty[other]
    mine, theirs = student.source.hypotheses, reference.source.hypotheses
    for measure in order_measures(mine[0].uncertainty):
        other = counterpart(measure, theirs[0].uncertainty)
        if other is not None:
            yield "sequence", measure, uncertainty_of(mine, measure), uncertainty_of(theirs, other)
