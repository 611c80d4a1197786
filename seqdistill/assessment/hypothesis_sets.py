"""From hypotheses to results: out-of-domain tables, rejection and quality of whole files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.detection import DetectionResult, detect
from seqdistill.assessment.quality import (
    SENTENCE_METRICS,
    QualityResult,
    corpus_quality,
    sentence_quality,
)
from seqdistill.assessment.rejection import RejectionResult, reject
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, ModelInfo, read_hypotheses
from seqdistill.uncertainty.measures import MEASURES

OOD_SCHEMA = "seqdistill.ood/1"

_PREDICTIVES = {
    "pe": "product of expectations",
    "base": "decoded by its base softmax(z)",
    "mean": "decoded by its mean α/α₀",
}


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


@dataclass(frozen=True)
class HypothesisSet:
    """The best hypotheses of one file, and where they stand in it.

    Attributes:
        path: of the file.
        hypotheses: one a sentence, ordered by sentence.
        lines: line of each in the file, from 1.
    """

    path: str
    hypotheses: list[Hypothesis]
    lines: list[int]

    def where(self, index: int) -> str:
        """Return the file and line of a hypothesis, for messages."""
        return f"{self.path}:{self.lines[index]}"

    @property
    def model(self) -> ModelInfo:
        """What produced the hypotheses."""
        return self.hypotheses[0].model

    def references(self) -> list[str]:
        """Return the reference of every sentence.

        Raises:
            InputError: one has none; its line is named.
        """
        references = []
        for index, hypothesis in enumerate(self.hypotheses):
            if hypothesis.reference is None:
                raise InputError(
                    f"{self.where(index)}: sentence {hypothesis.id} has no reference; "
                    "translate with --reference, or give a file of references with one line "
                    "a sentence"
                )
            references.append(hypothesis.reference)
        return references

    def with_references(self, path: str | Path) -> "HypothesisSet":
        """Return the set with references from a text file: line i + 1 is that of sentence i.

        Raises:
            InputError: the file is missing, not UTF-8, or has another number of lines.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected references, one line a sentence")
        try:
            references = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error.reason})") from error
        wanted = max(hypothesis.id for hypothesis in self.hypotheses) + 1
        if not len(references) == wanted == len(self.hypotheses):
            raise InputError(
                f"{path} has {len(references)} lines, but {self.path} has "
                f"{len(self.hypotheses)} sentences, numbered up to {wanted - 1}; expected one line "
                "a sentence"
            )
        return replace(
            self,
            hypotheses=[
                replace(hypothesis, reference=references[hypothesis.id])
                for hypothesis in self.hypotheses
            ],
        )

    def require_same_sentences(self, other: "HypothesisSet") -> None:
        """Refuse another set that is not of the same sentences.

        Raises:
            InputError: a sentence is missing on one side, or sources differ; lines are named.
        """
        mine = {hypothesis.id: index for index, hypothesis in enumerate(self.hypotheses)}
        theirs = {hypothesis.id: index for index, hypothesis in enumerate(other.hypotheses)}
        for here, there, ours in ((self, other, mine), (other, self, theirs)):
            against = theirs if ours is mine else mine
            lacking = next((number for number in ours if number not in against), None)
            if lacking is not None:
                raise InputError(
                    f"{here.where(ours[lacking])}: sentence {lacking} is not in {there.path}; "
                    "two systems are compared on the same sentences"
                )
        for index, (one, two) in enumerate(zip(self.hypotheses, other.hypotheses, strict=True)):
            if one.source is not None and two.source is not None and one.source != two.source:
                raise InputError(
                    f"{self.where(index)}: the source of sentence {one.id} is not that of "
                    f"{other.where(index)}; two systems are compared on the same sentences"
                )


def read_set(path: str | Path) -> HypothesisSet:
    """Read the best hypothesis (rank 0) of every sentence, and its line.

    Raises:
        InputError: the file is unusable, has no hypothesis of rank 0, has two of one sentence,
            holds the output of different models, or its lines have different measures (file and
            line are named).
    """
    # Every line holds one object, so counting what is read counts lines.
    numbered = [
        (line, hypothesis)
        for line, hypothesis in enumerate(read_hypotheses(path), start=1)
        if hypothesis.rank == 0
    ]
    if not numbered:
        raise InputError(f"{path}: no hypothesis of rank 0; expected one a sentence")
    first_line, first = numbered[0]
    seen: dict[int, int] = {}
    for line, hypothesis in numbered:
        where = f"{path}:{line}"
        if hypothesis.id in seen:
            raise InputError(
                f"{where}: sentence {hypothesis.id} has two hypotheses of rank 0 (the other is on "
                f"line {seen[hypothesis.id]}); give the output of one run over one set"
            )
        seen[hypothesis.id] = line
        try:
            common_model((first, hypothesis))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if hypothesis.uncertainty.keys() != first.uncertainty.keys():
            differing = hypothesis.uncertainty.keys() ^ first.uncertainty.keys()
            raise InputError(
                f"{where}: this line and line {first_line} differ in the measures "
                f"{', '.join(order_measures(differing))}; give the output of one run"
            )
    numbered.sort(key=lambda pair: pair[1].id)
    return HypothesisSet(str(path), [h for _, h in numbered], [line for line, _ in numbered])


def read_best(path: str | Path) -> list[Hypothesis]:
    """Read the best hypothesis (rank 0) of every sentence, ordered by sentence.

    Raises:
        InputError: as :func:`read_set`.
    """
    return read_set(path).hypotheses


def common_model(hypotheses: Iterable[Hypothesis]) -> ModelInfo:
    """Return the one model that produced all hypotheses.

    Raises:
        InputError: there is no hypothesis, or there are several models.
    """
    models = list(dict.fromkeys(hypothesis.model for hypothesis in hypotheses))
    if not models:
        raise InputError("expected at least one hypothesis, got none")
    if len(models) > 1:
        raise InputError(
            f"expected the output of one model, got {describe_model(models[0])} "
            f"and {describe_model(models[1])}; compare systems one by one"
        )
    return models[0]


def describe_model(model: ModelInfo) -> str:
    """Return one line on a model, such as ``ensemble of 5, product of expectations``."""
    predictive = _PREDICTIVES.get(model.predictive, model.predictive)
    if model.kind == "ensemble":
        return f"ensemble of {model.members}, {predictive}"
    if model.kind == "dirichlet":
        offset = "" if model.offset is None else f", offset {model.offset:g}"
        return f"Dirichlet student{offset}, {predictive}"
    return "one ordinary model" if model.kind == "softmax" else f"{model.kind}, {predictive}"


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


def order_measures(names: Iterable[str]) -> list[str]:
    """Order measures as the table of measures does; unknown ones follow by name."""
    position = {name: index for index, name in enumerate(MEASURES)}
    return sorted(names, key=lambda name: (position.get(name, len(position)), name))


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
) -> OodAssessment:
    """Measure how well each uncertainty detects each out-of-domain set.

    Args:
        in_domain: best hypotheses of the in-domain set.
        out_of_domain: name → best hypotheses, at least one set.
        measures: which measures; all that every file has when None.
        resamples: bootstrap resamples of the intervals, 0 for none.
        seed: of the bootstrap.

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


def assess_rejection(
    hypotheses: Sequence[Hypothesis],
    *,
    measures: Sequence[str] | None = None,
    metric: str = "chrf",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, RejectionResult] | None:
    """Return a rejection result per measure; None where no hypothesis has a reference.

    Raises:
        InputError: only some hypotheses have a reference, or a measure or the metric is unknown.
    """
    references = references_of(hypotheses)
    if references is None:
        return None
    quality = sentence_quality([h.text for h in hypotheses], references, metric=metric)
    return {
        measure: reject(
            quality,
            uncertainty_of(hypotheses, measure),
            measure=measure,
            quality_name=f"sentence {SENTENCE_METRICS[metric]}",
            resamples=resamples,
            seed=seed,
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
