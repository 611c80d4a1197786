"""Calibration of one system along scored references, with intervals over sentences.

Tokens of one sentence are not independent, so sentences are resampled.

Which way a temperature would go can be read from what is recorded: with p_T ∝ p^{1/T}, the
derivative of the mean −ln p_T(y) by 1/T is, at T = 1, the difference NLL − H of the negative
log-likelihood and the mean entropy of the same predictions; and the NLL is convex in 1/T. So where
NLL − H > 0 the best temperature is above 1 (the model is too sure), where it is negative, below.
How far, and what it would be worth, takes temperatures recorded while scoring: ``temperature.py``.
"""

import numpy as np

from seqdistill.assessment.bootstrap import (
    Estimate,
    IntArray,
    check_bootstrap,
    estimate,
    pivotal_estimate,
    tallies,
)
from seqdistill.assessment.calibration import BINNINGS, bin_index
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.forced_sets import ForcedSet
from seqdistill.assessment.numbers import Numbers, join
from seqdistill.assessment.signatures import bootstrap_fields, sign
from seqdistill.assessment.temperature import (
    FittedTemperature,
    at_temperature,
    require_same_model,
)

#: The measures that are the entropy of what was decoded, by ``ModelInfo.predictive``.
_ENTROPIES = {
    "pe": "total_uncertainty",
    "ep": "total_uncertainty_ep",
    "mean": "total_uncertainty",
    "base": "total_uncertainty_base",
    "softmax": "total_uncertainty",
    "calibrated": "total_uncertainty",
}
#: Numbers that are too large on a finite sample, and more so on a resample of it.
BIASED = tuple(f"ece_{binning}" for binning in BINNINGS)

_FIELDS: dict[str, dict[str, object]] = {
    "nll": {"unit": "nats", "mean": "tokens"},
    "accuracy": {"of": "max", "mean": "tokens"},
    "confidence": {"of": "max", "mean": "tokens"},
    "overconfidence": {"def": "confidence−accuracy"},
    "entropy_gap": {"def": "nll−entropy", "unit": "nats"},
}


def assess_calibration(
    forced: ForcedSet,
    *,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
    temperature: FittedTemperature | None = None,
) -> Numbers:
    """Return likelihood and calibration of one system along scored references.

    - ``nll``: −ln p of a reference token (nats), end-of-sentence counted;
    - ``accuracy``: share of positions where the most probable piece is the reference's;
    - ``confidence``: mean probability of the most probable piece;
    - ``overconfidence``: confidence − accuracy;
    - ``ece_equal_mass``, ``ece_equal_width``: Σ_bins |Σ confidence − Σ correct|/T (Guo and others,
      2017; Nguyen and O'Connor, 2015, for bins of equal mass). A resample keeps the bins. The
      interval is the pivotal one, since an absolute gap is biased upwards: it may lie below the
      value where the value is mostly noise;
    - ``entropy_gap``: NLL − mean entropy (nats); above 0 the best temperature is above 1.

    Args:
        forced: scored references.
        bins: of the calibration errors.
        resamples: bootstrap resamples of the intervals, over sentences; 0 for none.
        seed: of the bootstrap.
        temperature: assess the references at this temperature instead of 1; fitted on a validation
            set of the same model.

    Returns:
        Those numbers; None for what needs a field that was not recorded, and for ``entropy_gap`` at
        a temperature other than 1.

    Raises:
        InputError: there is no bin, a negative number of resamples, or a temperature that does not
            belong to these references.
    """
    check_bootstrap(resamples, seed)
    if temperature is not None:
        require_same_model(temperature, forced)
        forced = at_temperature(forced, temperature.value)
    lengths, nll = forced.lengths, forced.sums(-forced.log_probs)
    columns: dict[str, FloatArray | None] = {"nll": nll}
    gaps: dict[str, FloatArray | None] = {f"ece_{binning}": None for binning in BINNINGS}
    confidence, correct = forced.confidence, forced.correct
    if confidence is None or correct is None:
        columns |= dict.fromkeys(("accuracy", "confidence", "overconfidence"))
    else:
        columns["accuracy"] = forced.sums(correct)
        columns["confidence"] = forced.sums(confidence)
        columns["overconfidence"] = forced.sums(confidence - correct)
        for binning in BINNINGS:
            index = bin_index(confidence, binning, bins)
            gaps[f"ece_{binning}"] = _by_bin(forced, confidence - correct, index, bins)
    entropy = _entropy(forced)
    columns["entropy_gap"] = None if entropy is None else nll - forced.sums(entropy)

    def numbers(tally: IntArray) -> dict[str, FloatArray]:
        tokens = tally @ lengths  # (R,)
        found = {name: (tally @ c) / tokens for name, c in columns.items() if c is not None}
        for name, gap in gaps.items():
            if gap is not None:
                found[name] = np.abs(tally @ gap).sum(axis=1) / tokens
        return found

    values = numbers(np.ones((1, forced.n), dtype=np.int64))
    chunks = [numbers(tally) for tally in tallies(forced.n, resamples, seed)]
    replicates = join(chunks, values)
    estimates: dict[str, Estimate | None] = {}
    signatures = {}
    for name in (*columns, *gaps):
        is_gap = name in gaps
        kind = {"metric": "ece", "binning": name.removeprefix("ece_"), "bins": bins, "norm": 1}
        signatures[name] = sign(
            {
                **(kind if is_gap else {"metric": name, **_FIELDS[name]}),
                "predictive": forced.source.model.predictive,
                **(temperature.fields if temperature is not None else {}),
                "eos": "yes",
                "n": len(forced.log_probs),
                "sents": forced.n,
                **bootstrap_fields(resamples, seed, interval="95-pivotal" if is_gap else "95"),
            }
        )
        if name not in values:
            estimates[name] = None
            continue
        value = float(values[name][0])
        drawn = replicates[name]
        estimates[name] = (
            pivotal_estimate(value, drawn, least=0.0) if is_gap else estimate(value, drawn)
        )
    return Numbers(estimates, replicates, signatures, forced.n, resamples, seed)


def _by_bin(forced: ForcedSet, gap: FloatArray, index: IntArray, bins: int) -> FloatArray:
    """Sum a gap a token over each sentence and bin, (n, bins)."""
    cell = forced.sentence * bins + index
    summed = np.bincount(cell, weights=gap, minlength=forced.n * bins)
    return np.asarray(summed, dtype=np.float64).reshape(forced.n, bins)


def _entropy(forced: ForcedSet) -> FloatArray | None:
    """Entropy of what was decoded at each position, None where it was not recorded."""
    name = _ENTROPIES.get(forced.source.model.predictive)
    for candidate in ("entropy", name):
        if candidate in forced.uncertainty:
            return forced.uncertainty[candidate]
    return None
