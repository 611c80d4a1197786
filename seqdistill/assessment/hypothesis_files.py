"""Files of hypotheses: the best of each sentence, with the line it stands on for messages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seqdistill.assessment.n_best import TOP, Aggregation, NBest, aggregate, with_averages
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, ModelInfo, read_hypotheses
from seqdistill.uncertainty.measures import MEASURES

_PREDICTIVES = {
    "pe": "product of expectations",
    "ep": "expectation of products",
    "base": "decoded by its base softmax(z)",
    "mean": "decoded by its mean α/α₀",
}


@dataclass(frozen=True)
class HypothesisSet:
    """The best hypotheses of one file, and where they stand in it.

    Attributes:
        path: of the file.
        hypotheses: one a sentence, ordered by sentence.
        lines: line of each in the file, from 1.
        n_best: what their uncertainty was averaged over; None: it is the best hypothesis's own.
    """

    path: str
    hypotheses: list[Hypothesis]
    lines: list[int]
    n_best: NBest | None = None

    @classmethod
    def of(cls, name: str, hypotheses: Sequence[Hypothesis]) -> "HypothesisSet":
        """Make a set of hypotheses that are at hand; messages call it by a name and count them."""
        return cls(name, list(hypotheses), list(range(1, len(hypotheses) + 1)))

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
                    "give a file of references with one line a sentence"
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


def read_set(path: str | Path, aggregation: Aggregation = TOP) -> HypothesisSet:
    """Read the best hypothesis (rank 0) of every sentence, and its line.

    Args:
        path: of the file.
        aggregation: of the sequence measures over the n-best list of each sentence; the text and
            all else is that of the best hypothesis always.

    Raises:
        InputError: the file is unusable, has no hypothesis of rank 0, has two of one sentence,
            holds the output of different models, or its lines have different measures (file and
            line are named); or as :func:`seqdistill.assessment.n_best.aggregate`.
    """
    # Every line holds one object, so counting what is read counts lines.
    every = [
        (line, hypothesis)
        for line, hypothesis in enumerate(read_hypotheses(path), start=1)
        if hypothesis.rank == 0 or aggregation.kind != "top"
    ]
    numbered = [(line, hypothesis) for line, hypothesis in every if hypothesis.rank == 0]
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
    n_best = None
    if aggregation.kind != "top":
        averages, n_best = aggregate(str(path), every, aggregation)
        numbered = [(line, with_averages(h, averages)) for line, h in numbered]
    numbered.sort(key=lambda pair: pair[1].id)
    best = [hypothesis for _, hypothesis in numbered]
    return HypothesisSet(str(path), best, [line for line, _ in numbered], n_best)


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
    if model.kind == "hydra":
        return f"Hydra student, {model.members} heads, {predictive}"
    if model.samples is not None:
        if model.predictive == "mean":
            predictive = "decoded by their mean"
        drawn = f"{model.samples} members drawn with seed {model.seed}"
        return f"{model.kind} student over logits, {drawn}, {predictive}"
    if model.kind == "calibrated":
        return "one calibrated model"
    if model.kind == "expectations":
        return "student of expectations"
    if model.kind == "dirichlet":
        offset = "" if model.offset is None else f", offset {model.offset:g}"
        students = "Dirichlet student"
        if model.members > 1:
            students = f"mixture of {model.members} Dirichlet students"
        return f"{students}{offset}, {predictive}"
    return "one ordinary model" if model.kind == "softmax" else f"{model.kind}, {predictive}"


def order_measures(names: Iterable[str]) -> list[str]:
    """Order measures as the table of measures does; unknown ones follow by name."""
    position = {name: index for index, name in enumerate(MEASURES)}
    return sorted(names, key=lambda name: (position.get(name, len(position)), name))
