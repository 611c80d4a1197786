"""N-best lists: one number a sentence from the hypotheses that a search found for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis
from seqdistill.uncertainty.sequence import average_over_n_best

#: The best hypothesis alone, a mean weighted by softmax(ln P(y)/τ), or a plain mean.
AGGREGATIONS = ("top", "weighted", "uniform")


@dataclass(frozen=True)
class Aggregation:
    """How the hypotheses of a sentence become one number (Malinin & Gales 2021).

    Attributes:
        kind: of :data:`AGGREGATIONS`.
        temperature: τ of ``weighted``, above 0; large values approach ``uniform``.

    Raises:
        InputError: another kind, or a temperature that is not above 0.
    """

    kind: str = "top"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in AGGREGATIONS:
            raise InputError(
                f"expected an n-best aggregation of {', '.join(AGGREGATIONS)}, got {self.kind!r}"
            )
        if not 0.0 < self.temperature < float("inf"):
            raise InputError(
                f"expected an n-best temperature above 0, got {self.temperature:g}; uniform "
                "aggregation is its limit for large ones"
            )


#: The best hypothesis alone.
TOP = Aggregation()


@dataclass(frozen=True)
class NBest:
    """What was aggregated, for signatures.

    Attributes:
        aggregation: ``weighted`` or ``uniform``, and τ.
        smallest: hypotheses of the sentence that has the fewest.
        largest: of the one that has the most.
    """

    aggregation: Aggregation
    smallest: int
    largest: int

    def fields(self) -> dict[str, object]:
        """Return the fields of a signature.

        Example:
            >>> NBest(Aggregation("weighted", 0.5), 5, 5).fields()
            {'nbest': '5', 'aggregation': 'softmax(lnP/0.5)'}
        """
        size = f"{self.smallest}-{self.largest}"
        kind, tau = self.aggregation.kind, self.aggregation.temperature
        return {
            "nbest": str(self.largest) if self.smallest == self.largest else size,
            "aggregation": f"softmax(lnP/{tau:g})" if kind == "weighted" else kind,
        }


def join_n_best(found: Mapping[str, NBest | None]) -> NBest | None:
    """Return what was aggregated in several files together; None where nothing was.

    Args:
        found: file → what was aggregated in it.

    Raises:
        InputError: some files were aggregated and others were not, or their longest lists differ.
    """
    known = {path: one for path, one in found.items() if one is not None}
    if not known:
        return None
    paths, first = list(found), next(iter(known.values()))
    for path in paths:
        one = found[path]
        if one is None or one.largest != first.largest:
            raise InputError(
                f"{path} has up to {1 if one is None else one.largest} hypotheses a sentence and "
                f"{next(iter(known))} up to {first.largest}; decode all sets with one --nbest, so "
                "that their averages compare"
            )
    smallest = min(one.smallest for one in known.values())
    return NBest(first.aggregation, smallest, first.largest)


def aggregate(
    path: str, numbered: Sequence[tuple[int, Hypothesis]], aggregation: Aggregation
) -> tuple[dict[int, dict[str, float]], NBest]:
    """Average every sequence measure over the hypotheses of each sentence.

    Σ_s w_s · measure_s with w = softmax(ln P(y_s)/τ), on log-probabilities that are not divided by
    the length (``Hypothesis.log_prob``), or equal weights.

    Args:
        path: of the file, for messages.
        numbered: every hypothesis with its line.
        aggregation: ``weighted`` or ``uniform``.

    Returns:
        Sentence → measure → value, and what was aggregated.

    Raises:
        InputError: no sentence has a second hypothesis, ranks have gaps or repeat, or the
            hypotheses of a sentence have different measures (file and line are named).
    """
    lists: dict[int, dict[int, tuple[int, Hypothesis]]] = {}
    for line, hypothesis in numbered:
        ranks = lists.setdefault(hypothesis.id, {})
        if hypothesis.rank in ranks:
            raise InputError(
                f"{path}:{line}: sentence {hypothesis.id} has two hypotheses of rank "
                f"{hypothesis.rank} (the other is on line {ranks[hypothesis.rank][0]}); give the "
                "output of one run over one set"
            )
        ranks[hypothesis.rank] = (line, hypothesis)
    sizes = [len(ranks) for ranks in lists.values()]
    if max(sizes) == 1:
        raise InputError(
            f"{path}: every sentence has one hypothesis, so there is no n-best list to average "
            f"over ({aggregation.kind}); decode with --nbest N, N up to the beam"
        )
    averages = {
        sentence: _average(path, sentence, ranks, aggregation) for sentence, ranks in lists.items()
    }
    return averages, NBest(aggregation, min(sizes), max(sizes))


def _average(
    path: str,
    sentence: int,
    ranks: Mapping[int, tuple[int, Hypothesis]],
    aggregation: Aggregation,
) -> dict[str, float]:
    lacking = next((rank for rank in range(len(ranks)) if rank not in ranks), None)
    if lacking is not None:
        line = min(line for line, _ in ranks.values())
        raise InputError(
            f"{path}:{line}: sentence {sentence} has {len(ranks)} hypotheses and none of rank "
            f"{lacking}; its n-best list has a gap"
        )
    ordered = [ranks[rank] for rank in range(len(ranks))]
    first_line, best = ordered[0]
    for line, hypothesis in ordered:
        differing = hypothesis.uncertainty.keys() ^ best.uncertainty.keys()
        if differing:
            raise InputError(
                f"{path}:{line}: this hypothesis of sentence {sentence} and the one on line "
                f"{first_line} differ in the measures {', '.join(sorted(differing))}; every "
                "hypothesis of a list must have them all"
            )
    return average([hypothesis for _, hypothesis in ordered], aggregation)


def average(hypotheses: Sequence[Hypothesis], aggregation: Aggregation) -> dict[str, float]:
    """Return every sequence measure of one sentence, over its n-best list as asked for.

    Args:
        hypotheses: S of one sentence with the same measures, best first.
        aggregation: ``top`` is the best hypothesis alone.
    """
    best = hypotheses[0]
    if aggregation.kind == "top":
        return dict(best.uncertainty)
    names = list(best.uncertainty)
    values = torch.tensor(
        [[h.uncertainty[name] for h in hypotheses] for name in names], dtype=torch.float64
    ).reshape(len(names), len(hypotheses))  # (measures, S)
    log_probs = None
    if aggregation.kind == "weighted":
        log_probs = torch.tensor([h.log_prob for h in hypotheses], dtype=torch.float64)
    averages = average_over_n_best(values, log_probs, temperature=aggregation.temperature)
    return dict(zip(names, averages.tolist(), strict=True))


def with_averages(
    hypothesis: Hypothesis, averages: Mapping[int, Mapping[str, float]]
) -> Hypothesis:
    """Return the best hypothesis of a sentence with the averages of its list."""
    return replace(hypothesis, uncertainty=dict(averages[hypothesis.id]))
