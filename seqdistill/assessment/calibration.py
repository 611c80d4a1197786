"""Are the probabilities to be believed? Likelihood and calibration of forced references.

Both are taken along *reference* tokens (hypotheses with ``forced`` set): there the most probable
token is right or wrong as a matter of fact, and the likelihood is that of a given text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import IntArray
from seqdistill.assessment.checks import FloatArray, finite_vector, same_length
from seqdistill.assessment.correlation import average_ranks
from seqdistill.assessment.signatures import sign
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis

BINNINGS = ("equal_mass", "equal_width")


@dataclass(frozen=True)
class Likelihood:
    """How probable given texts are.

    Attributes:
        nll: negative log-likelihood of a token (nats), mean over all tokens.
        sentence_nll: negative log-likelihood of a sentence (nats), mean over sentences.
        n_tokens: tokens, end-of-sentence included.
        n_sentences: sentences.
    """

    nll: float
    sentence_nll: float
    n_tokens: int
    n_sentences: int

    @property
    def perplexity(self) -> float:
        """E to the power of the token's negative log-likelihood."""
        return math.exp(self.nll)

    @property
    def signature(self) -> str:
        """What has to be known to get the same numbers again, on one line."""
        counts = {"n": self.n_tokens, "sents": self.n_sentences}
        return sign({"metric": "nll", "unit": "nats", "mean": "tokens", "eos": "yes", **counts})


@dataclass(frozen=True)
class CalibrationResult:
    """Confidence against accuracy, bin by bin (a reliability diagram), and the gap between them.

    Empty bins are left out, so the arrays have K ≤ ``bins`` entries, confidence ascending.

    Attributes:
        ece: expected calibration error in [0, 1]: Σ count/n · |accuracy − confidence|.
        confidence: mean confidence of each bin, shape (K,).
        accuracy: share of right tokens in each bin, shape (K,).
        count: tokens in each bin, shape (K,).
        binning: ``equal_mass`` or ``equal_width``.
        bins: how many bins were asked for.
        n: tokens.
    """

    ece: float
    confidence: FloatArray
    accuracy: FloatArray
    count: IntArray
    binning: str
    bins: int
    n: int

    @property
    def signature(self) -> str:
        """What has to be known to get the same numbers again, on one line."""
        fields = {"binning": self.binning, "bins": self.bins, "n": self.n}
        return sign({"metric": "ece", "confidence": "max", "norm": 1, **fields})


def likelihood(token_log_probs: Sequence[Sequence[float]]) -> Likelihood:
    """Return the negative log-likelihood of texts.

    Args:
        token_log_probs: one sequence of log-probabilities (nats) a sentence, not empty.

    Raises:
        InputError: there is no sentence, one has no token, or a number is NaN, infinite or
            above 0.

    Example:
        >>> likelihood([[-1.0, -2.0], [-3.0]]).nll
        2.0
    """
    if len(token_log_probs) == 0:
        raise InputError("expected at least one sentence, got none")
    empty = [number for number, row in enumerate(token_log_probs) if len(row) == 0]
    if empty:
        raise InputError(f"sentence {empty[0]} has no tokens; end-of-sentence counts as one")
    flat = finite_vector(
        "token_log_probs", np.concatenate([np.asarray(r) for r in token_log_probs])
    )
    # A float32 softmax rounds certainty to a log-probability just above 0.
    if flat.max() > 1e-4:
        raise InputError(f"log-probabilities must not exceed 0, got {flat.max():g}")
    total = -float(flat.sum())
    sentences = len(token_log_probs)
    return Likelihood(total / len(flat), total / sentences, len(flat), sentences)


def calibration(
    confidence: Any, correct: Any, *, binning: str = "equal_mass", bins: int = 15
) -> CalibrationResult:
    """Compare the confidence of predictions with how often they are right.

    Args:
        confidence: probability of the most probable token at each position, in [0, 1], (n,).
        correct: whether it is the reference token, (n,).
        binning: ``equal_width`` cuts [0, 1] into equal parts (Guo et al., 2017); ``equal_mass``
            puts equally many tokens into each bin, equal confidences always into one bin.
        bins: number of bins.

    Raises:
        InputError: lengths differ, nothing came, a confidence lies outside [0, 1], ``correct`` is
            not boolean, or the binning is unknown.

    Example:
        >>> round(calibration([0.9, 0.9, 0.6, 0.6], [True, True, False, True], bins=2).ece, 9)
        0.1
    """
    c, right = finite_vector("confidence", confidence), finite_vector("correct", correct)
    n = same_length(confidence=c, correct=right)
    if not np.isin(right, (0.0, 1.0)).all():
        raise InputError("correct must hold booleans (or 0 and 1)")
    # Probabilities of a float32 softmax exceed 1 by a few units of rounding.
    if c.min() < 0.0 or c.max() > 1.0 + 1e-4:
        raise InputError(f"confidences must lie in [0, 1], got {c.min():g} … {c.max():g}")
    c = np.minimum(c, 1.0)
    index = bin_index(c, binning, bins)
    count = np.bincount(index, minlength=bins)
    kept = count > 0
    count = count[kept]
    mean_confidence = np.bincount(index, weights=c, minlength=bins)[kept] / count
    accuracy = np.bincount(index, weights=right, minlength=bins)[kept] / count
    ece = float(np.dot(count, np.abs(accuracy - mean_confidence)) / n)
    return CalibrationResult(ece, mean_confidence, accuracy, count, binning, bins, n)


def bin_index(confidence: FloatArray, binning: str, bins: int) -> IntArray:
    """Return the bin of each confidence, from 0, shape (n,).

    Args:
        confidence: in [0, 1], shape (n,).
        binning: as in :func:`calibration`.
        bins: number of bins.

    Raises:
        InputError: the binning is unknown or there is no bin.
    """
    if binning not in BINNINGS:
        raise InputError(f"unknown binning {binning!r}; there are {', '.join(BINNINGS)}")
    if bins < 1:
        raise InputError(f"expected at least one bin, got {bins}")
    by_mass = binning == "equal_mass"
    position = (average_ranks(confidence) - 0.5) / len(confidence) if by_mass else confidence
    return np.minimum((position * bins).astype(np.int64), bins - 1)  # 1.0 is in the last bin


def hypotheses_likelihood(hypotheses: Sequence[Hypothesis]) -> Likelihood:
    """Return the negative log-likelihood of force-decoded references.

    Raises:
        InputError: there is none, or one was searched for instead of forced.
    """
    _require_forced(hypotheses)
    return likelihood([hypothesis.token_log_probs for hypothesis in hypotheses])


def hypotheses_calibration(
    hypotheses: Sequence[Hypothesis], *, binning: str = "equal_mass", bins: int = 15
) -> CalibrationResult | None:
    """Return the calibration along force-decoded references.

    Returns:
        The result, or None where no hypothesis carries ``token_confidence`` and ``token_correct``.

    Raises:
        InputError: there is no hypothesis, one was not forced, or only some carry the fields.
    """
    _require_forced(hypotheses)
    confidence, correct = [], []
    without = 0
    for hypothesis in hypotheses:
        if hypothesis.token_confidence is None or hypothesis.token_correct is None:
            without += 1
            continue
        confidence.extend(hypothesis.token_confidence)
        correct.extend(hypothesis.token_correct)
    if without == len(hypotheses):
        return None
    if without:
        raise InputError(
            f"{without} of {len(hypotheses)} hypotheses lack token_confidence or token_correct; "
            "write the file in one run"
        )
    return calibration(confidence, correct, binning=binning, bins=bins)


def _require_forced(hypotheses: Sequence[Hypothesis]) -> None:
    searched = next((hypothesis for hypothesis in hypotheses if not hypothesis.forced), None)
    if searched is not None:
        raise InputError(
            f"sentence {searched.id} was searched for, not forced; "
            "likelihood and calibration need scored references (--score-reference)"
        )
    if not hypotheses:
        raise InputError("expected at least one forced hypothesis, got none")
