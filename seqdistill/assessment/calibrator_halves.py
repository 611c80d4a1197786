"""What a calibrator is worth, on sentences that it was not fitted on, beside a temperature.

The set is cut into halves of whole sentences. Calibrator and temperature are fitted on each half
and looked at on the other, so that every token is judged once by what has not seen it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from seqdistill.assessment.bootstrap import IntArray
from seqdistill.assessment.calibration import calibration
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.temperature import spline_weights
from seqdistill.errors import InputError
from seqdistill.uncertainty.calibrator import Calibrator
from seqdistill.uncertainty.calibrator_fit import (
    CalibrationTokens,
    CalibratorFit,
    CalibratorOptions,
)
from seqdistill.uncertainty.second_reading import DEFAULT_TEMPERATURES, log_partitions

_SEARCHED = 1001  # temperatures between the lowest and the highest


@dataclass(frozen=True)
class Believed:
    """Predictions along N reference tokens.

    Attributes:
        log_probs: (N,) of the references.
        confidence: (N,) of the most probable pieces.
    """

    log_probs: FloatArray
    confidence: FloatArray


@dataclass(frozen=True)
class HalvesResult:
    """Numbers of one way to predict, over all tokens.

    Attributes:
        nll: −ln p of a reference token, nats.
        ece: expected calibration error, 15 bins of equal mass.
        temperatures: of the two halves, where it is a temperature.
    """

    nll: float
    ece: float
    temperatures: tuple[float, ...] = ()


class HalvesComparison:
    """The comparison of a model as it is, at a temperature, and calibrated.

    Args:
        tokens: what the model says along the references.
        options: how the calibrator is fitted; its seed cuts the halves.

    Raises:
        InputError: fewer than four sentences.
    """

    def __init__(self, tokens: CalibrationTokens, options: CalibratorOptions) -> None:
        sentences = np.unique(tokens.sentences.numpy())
        if len(sentences) < 4:
            raise InputError(
                f"expected at least 4 sentences to fit a calibration on and to check it, got "
                f"{len(sentences)}"
            )
        shuffled = np.random.default_rng(options.seed).permutation(sentences)
        middle = len(shuffled) // 2
        self._tokens, self._options = tokens, options
        self._halves = [
            np.isin(tokens.sentences.numpy(), part)
            for part in (shuffled[:middle], shuffled[middle:])
        ]
        self._calibrated: list[Believed] = []

    @property
    def steps(self) -> int:
        """How many steps :meth:`run` has."""
        return 2 * self._options.updates

    def run(self) -> Iterator[int]:
        """Fit a calibrator on each half and look at the other; yields 1 a step."""
        for seen, other in (self._halves, self._halves[::-1]):
            part = self._tokens.of_tokens(torch.from_numpy(seen))
            fit = CalibratorFit(part, self._options)
            yield from fit.run()
            unseen = self._tokens.of_tokens(torch.from_numpy(other))
            self._calibrated.append(calibrated_predictions(unseen, fit.calibrator))

    def results(self) -> dict[str, HalvesResult]:
        """Return the numbers of ``uncalibrated``, ``temperature`` and ``calibrated``."""
        plain, correct, partitions = plain_predictions(self._tokens)
        tempered = Believed(np.empty_like(plain.log_probs), np.empty_like(plain.confidence))
        calibrated = Believed(np.empty_like(plain.log_probs), np.empty_like(plain.confidence))
        chosen = []
        for number, (seen, other) in enumerate((self._halves, self._halves[::-1])):
            beta, weights = best_temperature(plain.log_probs[seen], partitions[:, seen])
            chosen.append(1.0 / beta)
            of_row = weights @ partitions[:, other]
            tempered.log_probs[other] = beta * plain.log_probs[other] - of_row
            tempered.confidence[other] = np.exp(beta * np.log(plain.confidence[other]) - of_row)
            calibrated.log_probs[other] = self._calibrated[number].log_probs
            calibrated.confidence[other] = self._calibrated[number].confidence
        return {
            "uncalibrated": _result(plain, correct),
            "temperature": _result(tempered, correct, tuple(chosen)),
            "calibrated": _result(calibrated, correct),
        }


def plain_predictions(tokens: CalibrationTokens) -> tuple[Believed, IntArray, FloatArray]:
    """Return the model's own predictions, (N,) whether its best is right, and ln Σ p^(1/T), (K, N).

    The temperatures are :data:`~.second_reading.DEFAULT_TEMPERATURES`.
    """
    log_probs, confidence, correct, partitions = [], [], [], []
    for _, targets, rows in tokens.batches():
        best, place = rows.max(dim=-1)
        log_probs.append(rows.gather(1, targets.unsqueeze(-1)).squeeze(-1))
        confidence.append(best.exp())
        correct.append(place == targets)
        partitions.append(log_partitions(rows, DEFAULT_TEMPERATURES))
    believed = Believed(_array(torch.cat(log_probs)), _array(torch.cat(confidence)))
    return believed, torch.cat(correct).long().numpy(), _array(torch.cat(partitions, dim=1))


@torch.no_grad()
def calibrated_predictions(tokens: CalibrationTokens, calibrator: Calibrator) -> Believed:
    """Return what a calibrator makes of a model's predictions."""
    log_probs, confidence = [], []
    for features, targets, rows in tokens.batches():
        made = calibrator(rows, features)
        log_probs.append(made.log_probs(rows.gather(1, targets.unsqueeze(-1))).squeeze(-1))
        confidence.append(made.log_probs(rows.amax(dim=-1, keepdim=True)).exp().squeeze(-1))
    return Believed(_array(torch.cat(log_probs)), _array(torch.cat(confidence)))


def best_temperature(log_probs: FloatArray, partitions: FloatArray) -> tuple[float, FloatArray]:
    """Return 1/T of least −ln p_T, and the weights (K,) that make ln Σ p^(1/T) of the recorded.

    Args:
        log_probs: (N,) ln p of the references.
        partitions: (K, N) at :data:`~.second_reading.DEFAULT_TEMPERATURES`.
    """
    nodes = 1.0 / np.array(DEFAULT_TEMPERATURES[::-1])
    betas = np.geomspace(nodes[0], nodes[-1], _SEARCHED)
    weights = spline_weights(nodes, betas)[:, ::-1]  # of partitions in the order of temperatures
    nll = weights @ partitions.mean(axis=1) - betas * log_probs.mean()
    best = int(nll.argmin())
    return float(betas[best]), weights[best]


def _result(
    believed: Believed, correct: IntArray, temperatures: tuple[float, ...] = ()
) -> HalvesResult:
    confidence = np.minimum(believed.confidence, 1.0)
    found = calibration(confidence, correct, binning="equal_mass", bins=15)
    return HalvesResult(-float(believed.log_probs.mean()), float(found.ece), temperatures)


def _array(values: torch.Tensor) -> FloatArray:
    return values.double().numpy()
