"""From hypotheses to results: out-of-domain tables, rejection and quality of whole files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.detection import DetectionResult, detect

# These stay importable from here.
from seqdistill.assessment.hypothesis_files import common_model as common_model
from seqdistill.assessment.hypothesis_files import describe_model as describe_model
from seqdistill.assessment.hypothesis_files import order_measures as order_measures
from seqdistill.assessment.hypothesis_files import read_best as read_best
from seqdistill.assessment.n_best import NBest
from seqdistill.assessment.quality import (
    SENTENCE_METRICS,
    QualityResult,
    corpus_quality,
    sentence_quality,
)
from seqdistill.assessment.rejection import RejectionResult, reject
from seqdistill.assessment.word_alignment import AS_WRITTEN, Normalisation
from seqdistill.assessment.word_errors import WordErrors, word_errors
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, ModelInfo

OOD_SCHEMA = "seqdistill.ood/1"


@dataclass(frozen=True)
class OodAssessment:
    """Out-of-domain detection by every measure on every set.

    Attributes:
        measures: names of the measures, in the order of the rows of a table.
        sets: names of the out-of-domain sets, in the order of the columns.
        results: by measure, then by set.
        model: what produced the hypotheses.
    """

    measures: list[str]
    sets: list[str]
    results: dict[str, dict[str, DetectionResult]]
    model: ModelInfo

    def to_dict(self) -> dict[str, Any]:
        """Return what a JSON file of this assessment holds."""
        return {
            "schema": OOD_SCHEMA,
            "model": asdict(self.model),
            "results": [
                {
                    "measure": measure,
                    "set": name,
                    **asdict(self.results[measure][name]),
                    "signature": self.results[measure][name].signature,
                    "signatures": self.results[measure][name].signatures(),
                }
                for measure in self.measures
                for name in self.sets
            ],
        }


def choose_measures(
    sets: Mapping[str, Sequence[Hypothesis]], wanted: Sequence[str] | None = None
) -> list[str]:
    """Return the measures that every hypothesis has, in the order of the table of measures.

    Args:
        sets: name → hypotheses.
        wanted: measures asked for, in the order asked for; all there are when None.

    Raises:
        InputError: a measure asked for is missing somewhere (those present are listed), or there
            is no common measure.
    """
    names = {name: _measures_of(hypotheses) for name, hypotheses in sets.items()}
    common = set.intersection(*names.values()) if names else set()
    if wanted is not None:
        for measure in wanted:
            without = next(
                (name for name, present in names.items() if measure not in present), None
            )
            if without is not None:
                raise InputError(
                    f"unknown measure {measure!r} in {without}; "
                    f"present: {', '.join(order_measures(names[without])) or 'none'}"
                )
        if not wanted:
            raise InputError("expected at least one measure, got an empty list")
        return list(dict.fromkeys(wanted))
    if not common:
        raise InputError(
            f"no measure is present in all of {', '.join(sets)}; "
            "write them with one setting of --uncertainty-measures"
        )
    return order_measures(common)


def uncertainty_of(hypotheses: Sequence[Hypothesis], measure: str) -> FloatArray:
    """Return a sequence measure of every hypothesis, shape (n,), nats, higher = more uncertain.

    Raises:
        InputError: a hypothesis lacks the measure; those it has are listed.
    """
    for hypothesis in hypotheses:
        if measure not in hypothesis.uncertainty:
            present = ", ".join(order_measures(hypothesis.uncertainty)) or "none"
            raise InputError(
                f"unknown measure {measure!r} in sentence {hypothesis.id}; present: {present}"
            )
    return np.array([h.uncertainty[measure] for h in hypotheses], dtype=np.float64)


def assess_ood(
    in_domain: Sequence[Hypothesis],
    out_of_domain: Mapping[str, Sequence[Hypothesis]],
    *,
    measures: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    n_best: NBest | None = None,
) -> OodAssessment:
    """Measure how well each uncertainty detects each out-of-domain set.

    Args:
        in_domain: best hypotheses of the in-domain set.
        out_of_domain: name → best hypotheses, at least one set.
        measures: which measures; all that every file has when None.
        resamples: bootstrap resamples of the intervals, 0 for none.
        seed: of the bootstrap.
        n_best: what their uncertainty was averaged over, for the signatures.

    Raises:
        InputError: a set is empty, a measure is unknown, or the sets come from different models.
    """
    if not out_of_domain:
        raise InputError("expected at least one out-of-domain set, got none")
    sets = {"the in-domain set": in_domain}
    sets |= {f"the out-of-domain set {name!r}": rows for name, rows in out_of_domain.items()}
    for name, rows in sets.items():
        if not rows:
            raise InputError(f"{name} has no hypotheses; expected at least one")
    model = common_model(hypothesis for rows in sets.values() for hypothesis in rows)
    chosen = choose_measures(sets, measures)
    results: dict[str, dict[str, DetectionResult]] = {}
    for measure in chosen:
        scores = uncertainty_of(in_domain, measure)
        results[measure] = {
            name: detect(
                scores,
                uncertainty_of(rows, measure),
                measure=measure,
                resamples=resamples,
                seed=seed,
                n_best=n_best,
            )
            for name, rows in out_of_domain.items()
        }
    return OodAssessment(chosen, list(out_of_domain), results, model)


def assess_quality(
    hypotheses: Sequence[Hypothesis], *, tokenize: str | None = None
) -> QualityResult | None:
    """Score hypotheses against their references; None where no hypothesis has one.

    Raises:
        InputError: only some hypotheses have a reference, or there is no hypothesis.
    """
    references = references_of(hypotheses)
    if references is None:
        return None
    return corpus_quality([h.text for h in hypotheses], references, tokenize=tokenize)


def assess_word_errors(
    hypotheses: Sequence[Hypothesis],
    *,
    normalisation: Normalisation = AS_WRITTEN,
    resamples: int = 1000,
    seed: int = 0,
) -> WordErrors | None:
    """Count the word errors of hypotheses; None where no hypothesis has a reference.

    Raises:
        InputError: only some hypotheses have a reference, there is no hypothesis, or jiwer is not
            installed.
    """
    references = references_of(hypotheses)
    if references is None:
        return None
    texts = [hypothesis.text for hypothesis in hypotheses]
    return word_errors(
        texts, references, normalisation=normalisation, resamples=resamples, seed=seed
    )


def assess_rejection(
    hypotheses: Sequence[Hypothesis],
    *,
    measures: Sequence[str] | None = None,
    metric: str = "chrf",
    normalisation: Normalisation = AS_WRITTEN,
    resamples: int = 1000,
    seed: int = 0,
    n_best: NBest | None = None,
) -> dict[str, RejectionResult] | None:
    """Return a rejection result per measure; None where no hypothesis has a reference.

    Raises:
        InputError: only some hypotheses have a reference, or a measure or the metric is unknown.
    """
    references = references_of(hypotheses)
    if references is None:
        return None
    texts = [hypothesis.text for hypothesis in hypotheses]
    quality = sentence_quality(texts, references, metric=metric, normalisation=normalisation)
    return {
        measure: reject(
            quality,
            uncertainty_of(hypotheses, measure),
            measure=measure,
            quality_name=f"sentence {SENTENCE_METRICS[metric]}",
            resamples=resamples,
            seed=seed,
            n_best=n_best,
        )
        for measure in choose_measures({"the set": hypotheses}, measures)
    }


def references_of(hypotheses: Sequence[Hypothesis]) -> list[str] | None:
    """Return the references, or None where no hypothesis has one.

    Raises:
        InputError: only some hypotheses have a reference.
    """
    references = [h.reference for h in hypotheses if h.reference is not None]
    if not references:
        return None
    if len(references) != len(hypotheses):
        raise InputError(
            f"{len(references)} of {len(hypotheses)} hypotheses have a reference; "
            "quality needs all or none"
        )
    return references


def _measures_of(hypotheses: Sequence[Hypothesis]) -> set[str]:
    return set.intersection(*(set(hypothesis.uncertainty) for hypothesis in hypotheses))
