"""Does uncertainty find the mistakes? Every number on errors of one system, by measure.

The error of a sentence is 1 − quality/100: of BLEU and chrF what is missing to a perfect score, of
TER and WER the rate itself. See :mod:`seqdistill.assessment.retention` for the definitions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import (
    Estimate,
    IntArray,
    check_bootstrap,
    estimate,
    tallies,
)
from seqdistill.assessment.checks import FloatArray, finite_vector, same_length
from seqdistill.assessment.n_best import NBest
from seqdistill.assessment.retention import (
    Groups,
    Retained,
    f1_area,
    f1_at,
    lm_polygraph_ratio,
    retention_area,
    risk_coverage_area,
)
from seqdistill.assessment.selective import CorpusScore, kept_count
from seqdistill.assessment.signatures import bootstrap_fields, measure_fields, nested, sign
from seqdistill.errors import InputError

#: Shifts' threshold for translation: an error of 60 points (of 100 − GLEU there) is acceptable.
ACCEPTABLE_ERROR = 0.6
#: One wrong word in ten: short transcripts are then acceptable if they are right.
ACCEPTABLE_WORD_ERRORS = 0.1
COVERAGES = (0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True)
class ErrorMetric:
    """How a number is called and read.

    Attributes:
        label: in tables.
        higher: whether higher is better.
        fields: of its signature.
    """

    label: str
    higher: bool
    fields: Mapping[str, object] = field(default_factory=dict)


_SHIFTS = {"def": "shifts"}
#: Numbers of an order of sentences, all independent of the scale of the uncertainty.
ERROR_METRICS: dict[str, ErrorMetric] = {
    "prr": ErrorMetric("PRR", True, {"random": "closed", "ties": "shared"}),
    "prr_lm_polygraph": ErrorMetric(
        "PRR (LM-Polygraph)", True, {"random": "closed", "ties": "shared", "rejected": 1}
    ),
    "prr_lm_polygraph_0.5": ErrorMetric(
        "PRR (LM-Polygraph, 0.5)", True, {"random": "closed", "ties": "shared", "rejected": 0.5}
    ),
    "r_auc": ErrorMetric("R-AUC", False, {**_SHIFTS, "ties": "shared"}),
    "f1_auc": ErrorMetric("F1-AUC", True, {**_SHIFTS, "ties": "shared"}),
    "f1_at_95": ErrorMetric("F1@95", True, {**_SHIFTS, "ties": "shared"}),
    "aurc": ErrorMetric("AURC", False, {"ties": "shared"}),
    "e_aurc": ErrorMetric("E-AURC", False, {"ties": "shared"}),
}
_NEEDS_THRESHOLD = ("f1_auc", "f1_at_95")


@dataclass(frozen=True)
class ErrorResult:
    """How well one measure finds the mistakes of one system.

    Attributes:
        measure: its name.
        numbers: by name: those of :data:`ERROR_METRICS` (PRRs at most 1, the others in [0, 1] for
            errors in [0, 1]; None where a ratio does not exist since all errors are equal), and at
            each coverage ``quality@C``, mean sentence quality of what is kept, and ``bleu@C`` (or
            ``wer@C``), its corpus BLEU (or word error rate), in per cent.
        replicates: the same of each resample, shape (R,), NaN where a number does not exist.
        quality: signature of the sentence quality, None where it has none.
        acceptable_error: threshold of the F1 numbers, in (0, 1).
        n: sentences.
        n_acceptable: those with an error up to the threshold.
        resamples: bootstrap resamples, 0 for none.
        seed: of the bootstrap.
        n_best: what the measure was averaged over; None: it is that of the best hypotheses.
    """

    measure: str
    numbers: dict[str, Estimate | None]
    replicates: dict[str, FloatArray] = field(repr=False, compare=False)
    quality: str | None
    acceptable_error: float
    n: int
    n_acceptable: int
    resamples: int
    seed: int
    n_best: NBest | None = None

    def signature_of(self, name: str) -> str:
        """Return the signature of one of the numbers."""
        metric, _, coverage = name.partition("@")
        kind: Mapping[str, object]
        if name in ERROR_METRICS:
            kind = ERROR_METRICS[name].fields
        else:
            kind = {"coverage": coverage, "ties": "shared"}
        threshold = {"acceptable": f"{self.acceptable_error:g}"} if name in _NEEDS_THRESHOLD else {}
        return sign(
            {
                **measure_fields(self.measure, self.n_best),
                "metric": name if name in ERROR_METRICS else f"selective_{metric}",
                **kind,
                **threshold,
                "quality": nested(self.quality) if self.quality else "scores",
                "n": self.n,
                **bootstrap_fields(self.resamples, self.seed),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a JSON file holds of this result."""
        return {
            "measure": self.measure,
            "acceptable_error": self.acceptable_error,
            "n": self.n,
            "n_acceptable": self.n_acceptable,
            "numbers": {
                name: number and {**asdict(number), "signature": self.signature_of(name)}
                for name, number in self.numbers.items()
            },
        }


def default_acceptable_error(metric: str) -> float:
    """Return the error up to which a sentence is acceptable, by its metric, where none is given."""
    return ACCEPTABLE_WORD_ERRORS if metric == "wer" else ACCEPTABLE_ERROR


def detect_errors(
    quality: Any,
    uncertainty: Mapping[str, Any],
    *,
    acceptable_error: float = ACCEPTABLE_ERROR,
    coverages: Sequence[float] = COVERAGES,
    corpus: CorpusScore | None = None,
    quality_signature: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    n_best: NBest | None = None,
) -> dict[str, ErrorResult]:
    """Measure how well each uncertainty finds the mistakes of one system.

    Args:
        quality: of each sentence, higher = better, shape (n,), at most 100.
        uncertainty: name → of each sentence, higher = more uncertain, shape (n,).
        acceptable_error: errors up to it count as acceptable, in (0, 1).
        coverages: shares of sentences kept for selective quality, in (0, 1].
        corpus: of :func:`seqdistill.assessment.selective.corpus_score`, for selective BLEU or WER.
        quality_signature: of the quality, for the signature.
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the bootstrap. Results of one seed on the same sentences are paired:
            :func:`seqdistill.assessment.numbers.compare_numbers` compares them.
        n_best: what the uncertainties were averaged over, for the signature.

    Raises:
        InputError: lengths differ, a vector is empty or holds NaN or infinity, a quality exceeds
            100, a threshold or coverage is out of range, or the threshold leaves only acceptable or
            only unacceptable sentences.

    Example:
        >>> found = detect_errors([90.0, 10.0, 50.0], {"tu": [0.1, 2.0, 0.7]}, resamples=0)
        >>> found["tu"].numbers["prr"].value, round(found["tu"].numbers["r_auc"].value, 4)
        (1.0, 0.1833)
    """
    check_bootstrap(resamples, seed)
    if not 0.0 < acceptable_error < 1.0:
        raise InputError(
            "the acceptable error must lie between 0 and 1 (both excluded), "
            f"got {acceptable_error:g}; it is a share: 0.6 means a quality of at least 40"
        )
    q = finite_vector("quality", quality)
    scores = {name: finite_vector(name, values) for name, values in uncertainty.items()}
    for name, column in scores.items():
        same_length(**{"quality": q, name: column})
    if q.max() > 100.0 * (1.0 + 1e-9):
        raise InputError(f"a quality of {q.max():g} exceeds the best, 100")
    n = len(q)
    kept = {f"{coverage:g}": kept_count(coverage, n) for coverage in coverages}
    errors = np.maximum(1.0 - q / 100.0, 0.0)
    # 1 − 40/100 is 0.6 only up to rounding.
    acceptable = (errors <= acceptable_error + 1e-12).astype(np.float64)
    if acceptable.min() == acceptable.max():
        share = "every" if acceptable[0] else "no"
        raise InputError(
            f"{share} sentence has an error of at most {acceptable_error:g}, so the threshold "
            f"separates nothing; errors run from {errors.min():.3g} to {errors.max():.3g}"
        )
    sums = _Sums(q, errors, acceptable, corpus, kept)
    groups = {name: Groups(values) for name, values in scores.items()}
    values = sums.numbers(groups, np.ones((1, n), dtype=np.int64))
    replicates: dict[str, dict[str, list[FloatArray]]] = {
        name: {number: [np.empty(0)] for number in row} for name, row in values.items()
    }
    for tally in tallies(n, resamples, seed):
        for name, row in sums.numbers(groups, tally).items():
            for number, drawn in row.items():
                replicates[name][number].append(drawn)
    results = {}
    for name, row in values.items():
        joined = {number: np.concatenate(parts) for number, parts in replicates[name].items()}
        results[name] = ErrorResult(
            measure=name,
            numbers={
                number: None if np.isnan(value[0]) else estimate(float(value[0]), joined[number])
                for number, value in row.items()
            },
            replicates=joined,
            quality=quality_signature,
            acceptable_error=acceptable_error,
            n=n,
            n_acceptable=int(acceptable.sum()),
            resamples=resamples,
            seed=seed,
            n_best=n_best,
        )
    return results


@dataclass(frozen=True)
class _Sums:
    """Per sentence what the numbers are made of.

    Attributes:
        quality: (n,), 0 to 100.
        errors: (n,).
        acceptable: (n,), 0 or 1.
        corpus: what a corpus score is made of, or None.
        kept: coverage → sentences kept.
    """

    quality: FloatArray
    errors: FloatArray
    acceptable: FloatArray
    corpus: CorpusScore | None
    kept: Mapping[str, int]

    def numbers(
        self, groups: Mapping[str, Groups], tally: IntArray
    ) -> dict[str, dict[str, FloatArray]]:
        """Every number of every measure, each (R,), of the resamples in ``tally`` (R, n)."""
        by_error = Groups(self.errors)
        oracle = {
            "errors": by_error.retained(self.errors, tally),
            "quality": by_error.retained(self.quality, tally),
        }
        return {name: self._one(group, oracle, tally) for name, group in groups.items()}

    def _one(
        self, group: Groups, oracle: Mapping[str, Retained], tally: IntArray
    ) -> dict[str, FloatArray]:
        errors = group.retained(self.errors, tally)
        quality = group.retained(self.quality, tally)
        acceptable = group.retained(self.acceptable, tally)
        risk = risk_coverage_area(errors)
        area = retention_area(errors)
        numbers = {
            "prr": _rejection_ratio(area, retention_area(oracle["errors"]), errors),
            "prr_lm_polygraph": lm_polygraph_ratio(quality, oracle["quality"]),
            "prr_lm_polygraph_0.5": lm_polygraph_ratio(quality, oracle["quality"], rejected=0.5),
            "r_auc": area,
            "f1_auc": f1_area(acceptable),
            "f1_at_95": f1_at(acceptable),
            "aurc": risk,
            "e_aurc": risk - risk_coverage_area(oracle["errors"]),
        }
        for coverage, k in self.kept.items():
            numbers[f"quality@{coverage}"] = quality.kept(k) / k
            if self.corpus is not None:
                sums = group.kept_sums(self.corpus.counts, tally, k)
                numbers[f"{self.corpus.name}@{coverage}"] = self.corpus.of_sums(sums)
        return numbers


def _rejection_ratio(area: FloatArray, oracle: FloatArray, errors: Retained) -> FloatArray:
    """PRR = (A − A_random)/(A_oracle − A_random) of error-retention areas, (R,)."""
    random = errors.total.sum(axis=1) / (2.0 * errors.n)
    spread = random - oracle
    # All errors drawn equal: what is left of the spread is rounding.
    usable = spread > 1e-12 * np.maximum(random, 1e-300)
    ratio: FloatArray = np.divide(
        random - area, spread, out=np.full(len(area), np.nan), where=usable
    )
    return ratio
