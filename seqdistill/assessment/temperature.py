"""Temperature scaling, the control of every claim about calibration (Guo and others, 2017).

One number T > 0 is fitted on a validation set, and predictions become p_T ∝ p^(1/T). If that alone
makes a system as well calibrated as another one, then the other's advantage was a matter of one
number. What is tempered is what was decoded: softmax(z/T) for one model or a student's base,
p̄^(1/T) renormalised for an ensemble (not its members), (α/α₀)^(1/T) renormalised for the mean of a
Dirichlet student.

Files that were scored with temperatures hold A(1/T) = ln Σ_v p(v)^(1/T) of every token. With
β = 1/T, every ln p_T(v) = β ln p(v) − A(β). Between the recorded temperatures A is interpolated by
a cubic spline in β, through A(1) = 0; at a recorded one nothing is interpolated. The mean negative
log-likelihood is convex in β, so a fit needs no start and has one solution.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Estimate, check_bootstrap, estimate, tallies
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.forced_sets import ForcedSet
from seqdistill.assessment.hypothesis_files import describe_model
from seqdistill.assessment.signatures import bootstrap_fields, nested, sign
from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo

_POINTS = 1001  # of the search, evenly spread in ln T; a parabola through three of them refines it
_SAME = 1e-9  # relative difference of temperatures that are one
_DIGITS = 4  # decimals of a fitted temperature: what is printed is what was used


class TemperatureOutsideError(InputError):
    """The best temperature lies beyond those that were recorded."""


@dataclass(frozen=True)
class FittedTemperature:
    """A temperature and where it was fitted.

    Attributes:
        temperature: the one of least negative log-likelihood, with its interval over sentences of
            the validation set.
        nll_before: of a validation token (nats), at temperature 1.
        nll_after: the same at the fitted temperature.
        path: of the validation set's scored references.
        model: whose they are.
        n_tokens: in it.
        n_sentences: in it.
        resamples: of the interval, 0 for none.
        seed: of the bootstrap.
    """

    temperature: Estimate
    nll_before: float
    nll_after: float
    path: str
    model: ModelInfo
    n_tokens: int
    n_sentences: int
    resamples: int
    seed: int

    @property
    def value(self) -> float:
        """The temperature."""
        return self.temperature.value

    @property
    def fields(self) -> dict[str, object]:
        """What signatures of numbers at this temperature say of it."""
        where = f"nll|{Path(self.path).name}|n:{self.n_tokens}|sents:{self.n_sentences}"
        return {"T": f"{self.value:.{_DIGITS}f}", "fit": nested(where)}

    @property
    def signature(self) -> str:
        """What has to be known to get the same temperature again, on one line."""
        return sign(
            {
                "metric": "temperature",
                "predictive": self.model.predictive,
                **self.fields,
                **bootstrap_fields(self.resamples, self.seed),
            }
        )


def fit_temperature(
    validation: ForcedSet, *, resamples: int = 1000, seed: int = 0
) -> FittedTemperature:
    """Return the temperature that makes scored references of a validation set most likely.

    Args:
        validation: scored with at least three temperatures beside 1, the best one between them.
        resamples: bootstrap resamples of the interval, over sentences; 0 for none. A resample whose
            best temperature lies outside counts with the outermost.
        seed: of the bootstrap.

    Raises:
        InputError: temperatures are missing or too few.
        TemperatureOutsideError: the likelihood still rises at the lowest or the highest.
    """
    check_bootstrap(resamples, seed)
    nodes, partitions = _nodes(validation)
    _require_enough(nodes, validation)
    beta = np.geomspace(nodes[0], nodes[-1], _POINTS)
    weights = spline_weights(nodes, beta)  # (P, K)
    log_probs = validation.sums(validation.log_probs)
    sums = np.stack([validation.sums(row) for row in partitions])  # (K, n)
    lengths = validation.lengths

    def best(tally: Any) -> FloatArray:
        """Place of the least NLL among the points, from 0 to P − 1, of each resample, (R,)."""
        nll = (tally @ sums.T) @ weights.T - np.outer(tally @ log_probs, beta)
        nll /= (tally @ lengths)[:, None]
        index = nll.argmin(axis=1)
        inner = np.clip(index, 1, _POINTS - 2)
        left, middle, right = (nll[np.arange(len(nll)), inner + step] for step in (-1, 0, 1))
        bend = left - 2.0 * middle + right
        shift = np.divide(left - right, 2.0 * bend, out=np.zeros_like(bend), where=bend > 0.0)
        return np.asarray(np.where(index == inner, inner + shift, index))

    def temperature(position: FloatArray) -> FloatArray:
        return np.asarray((nodes[-1] / nodes[0]) ** (-position / (_POINTS - 1)) / nodes[0])

    position = best(np.ones((1, validation.n), dtype=np.int64))
    if not 0 < position[0] < _POINTS - 1:
        edge = "highest" if position[0] == 0 else "lowest"
        raise TemperatureOutsideError(
            f"{validation.source.path}: the likelihood still rises at the {edge} temperature, "
            f"{1.0 / nodes[0 if edge == 'highest' else -1]:g}; score with temperatures that reach "
            "further (--temperatures)"
        )
    value = round(float(temperature(position)[0]), _DIGITS)
    drawn = [temperature(best(tally)) for tally in tallies(validation.n, resamples, seed)]
    after = at_temperature(validation, value)
    return FittedTemperature(
        temperature=estimate(value, np.concatenate([np.empty(0), *drawn])),
        nll_before=-float(validation.log_probs.mean()),
        nll_after=-float(after.log_probs.mean()),
        path=validation.source.path,
        model=validation.source.model,
        n_tokens=len(validation.log_probs),
        n_sentences=validation.n,
        resamples=resamples,
        seed=seed,
    )


def require_same_model(fitted: FittedTemperature, forced: ForcedSet) -> None:
    """Refuse a temperature that was fitted for another model, or on the very set it is meant for.

    Raises:
        InputError: one of the two.
    """
    if Path(fitted.path).resolve() == Path(forced.source.path).resolve():
        raise InputError(
            f"{fitted.path}: a temperature fitted on the set that is assessed says nothing about "
            "calibration; give the scored references of a validation set"
        )
    if fitted.model != forced.source.model:
        raise InputError(
            f"{fitted.path} is of {describe_model(fitted.model)}, {forced.source.path} of "
            f"{describe_model(forced.source.model)}; the temperature must be that of the same model"
        )


def at_temperature(forced: ForcedSet, temperature: float) -> ForcedSet:
    """Return scored references as the model at a temperature would have scored them.

    Likelihood and confidence change; which piece is the most probable does not. Uncertainties and
    comparisons with a second system are those of temperature 1, so they are left out.

    Args:
        forced: scored with temperatures.
        temperature: one of them, or between them.

    Raises:
        InputError: temperatures are missing, too few to interpolate, or do not reach that far.
    """
    beta = 1.0 / temperature
    partition = _partition(forced, beta)
    confidence = forced.confidence
    if confidence is not None:
        confidence = np.minimum(np.exp(beta * np.log(confidence) - partition), 1.0)
    return replace(
        forced,
        log_probs=beta * forced.log_probs - partition,
        confidence=confidence,
        uncertainty={},
        against=None,
        divergence=None,
        agreement=None,
        temperatures=None,
        log_partitions=None,
    )


def spline_weights(nodes: FloatArray, points: FloatArray) -> FloatArray:
    """Return the matrix (P, K) that makes values at P points of values at K nodes.

    The cubic spline without further conditions at its ends ("not-a-knot": the third derivative is
    continuous at the second node and at the last but one; de Boor, 1978, chapter IV).

    Args:
        nodes: ascending, shape (K,), K ≥ 4.
        points: in between, shape (P,).

    Example:
        >>> nodes = np.array([0.0, 1.0, 2.0, 4.0])
        >>> spline_weights(nodes, np.array([3.0])) @ nodes**3
        array([27.])
    """
    K, h = len(nodes), np.diff(nodes)
    bends, slopes = np.zeros((K, K)), np.zeros((K, K))  # bends @ f'' = slopes @ f
    for i in range(1, K - 1):
        bends[i, i - 1 : i + 2] = h[i - 1] / 6, (h[i - 1] + h[i]) / 3, h[i] / 6
        slopes[i, i - 1 : i + 2] = 1 / h[i - 1], -1 / h[i - 1] - 1 / h[i], 1 / h[i]
    bends[0, :3] = -1 / h[0], 1 / h[0] + 1 / h[1], -1 / h[1]
    bends[-1, -3:] = -1 / h[-2], 1 / h[-2] + 1 / h[-1], -1 / h[-1]
    second = np.linalg.solve(bends, slopes)
    j = np.clip(np.searchsorted(nodes, points, side="right") - 1, 0, K - 2)
    step, before, after = h[j], points - nodes[j], nodes[j + 1] - points
    weights = ((after**3 / step - step * after) / 6)[:, None] * second[j]
    weights += ((before**3 / step - step * before) / 6)[:, None] * second[j + 1]
    weights[np.arange(len(j)), j] += after / step
    weights[np.arange(len(j)), j + 1] += before / step
    return np.asarray(weights)


def _nodes(forced: ForcedSet) -> tuple[FloatArray, FloatArray]:
    """Return 1/T ascending, (K,), and ln Σ p^(1/T), (K, T); T = 1 is among them."""
    if forced.temperatures is None or forced.log_partitions is None:
        raise InputError(
            f"{forced.source.where(0)}: no tempered.temperatures; score the references with "
            "--temperatures default (--score-temperatures in fairseq's programs)"
        )
    is_one = np.abs(forced.temperatures - 1.0) < _SAME
    beta = np.append(1.0 / forced.temperatures[~is_one], 1.0)
    zero = np.zeros((1, forced.log_partitions.shape[1]))
    partitions = np.concatenate([forced.log_partitions[~is_one], zero])
    order = np.argsort(beta)
    return beta[order], partitions[order]


def _partition(forced: ForcedSet, beta: float) -> FloatArray:
    """Return ln Σ p^β of every token, (T,)."""
    nodes, partitions = _nodes(forced)
    recorded = np.flatnonzero(np.abs(nodes - beta) < _SAME * beta)
    if recorded.size:
        return np.asarray(partitions[recorded[0]])
    if not nodes[0] < beta < nodes[-1]:
        raise InputError(
            f"{forced.source.path}: scored with temperatures from {1 / nodes[-1]:g} to "
            f"{1 / nodes[0]:g}, and {1 / beta:g} is wanted; score it with that one (--temperatures)"
        )
    _require_enough(nodes, forced)
    return np.asarray((spline_weights(nodes, np.array([beta])) @ partitions)[0])


def _require_enough(nodes: FloatArray, forced: ForcedSet) -> None:
    if len(nodes) < 4:
        raise InputError(
            f"{forced.source.path}: scored with {len(nodes) - 1} temperatures beside 1; what lies "
            "between needs at least 3 (--temperatures default has 16)"
        )
