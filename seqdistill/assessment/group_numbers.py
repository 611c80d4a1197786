"""What numbers by group have in common: their names, sums over sentences, and intervals."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Estimate, estimate, pivotal_estimate, tallies
from seqdistill.assessment.checks import FloatArray
from seqdistill.assessment.groups import Grouping, GroupOptions, make_grouping
from seqdistill.assessment.hypothesis_files import HypothesisSet
from seqdistill.assessment.numbers import Numbers, join
from seqdistill.assessment.signatures import sign

#: Numbers over all groups: they measure spread, so noise makes them larger.
SPREADS = ("combined_error_variance", "symmetric_distance_error")


@dataclass(frozen=True)
class GroupResult:
    """One student beside the reference system, by group.

    Attributes:
        grouping: which groups.
        sentences: that have something in each group, G of them.
        units: words (of scored texts: tokens) of the references in each group.
        numbers: named ``NUMBER:GROUP``, and those over all groups by their name alone.
    """

    grouping: Grouping
    sentences: tuple[int, ...]
    units: tuple[int, ...]
    numbers: Numbers

    def of_group(self, name: str, group: int) -> Estimate | None:
        """Return one number of one group, None where it does not exist."""
        return self.numbers.numbers.get(f"{name}:{self.grouping.labels[group]}")

    @property
    def names(self) -> list[str]:
        """Numbers that groups have."""
        return list(dict.fromkeys(n.partition(":")[0] for n in self.numbers.numbers if ":" in n))

    def to_dict(self) -> dict[str, Any]:
        """Return what a JSON file holds of the result."""
        found = {name: value and asdict(value) for name, value in self.numbers.numbers.items()}
        signatures = {n.partition(":")[0]: text for n, text in self.numbers.signatures.items()}
        return {
            "by": self.grouping.name,
            "edges": list(self.grouping.edges),
            "groups": [
                {
                    "group": label,
                    "sentences": self.sentences[index],
                    "units": self.units[index],
                    **{name: found[f"{name}:{label}"] for name in self.names},
                }
                for index, label in enumerate(self.grouping.labels)
            ],
            **{name: number for name, number in found.items() if ":" not in name},
            "signatures": signatures,
        }


def chosen_grouping(one: HypothesisSet, groups: GroupOptions | Grouping | None) -> Grouping:
    """Return the groups that were given, or make them."""
    if isinstance(groups, Grouping):
        return groups
    return make_grouping(one.hypotheses, groups or GroupOptions())


def by_group(found: dict[str, FloatArray], grouping: Grouping) -> dict[str, FloatArray]:
    """Turn columns (R, G) by name into columns (R,) by name and group."""
    return {
        f"{name}:{label}": values[:, index]
        for name, values in found.items()
        for index, label in enumerate(grouping.labels)
    }


def estimated(
    compute: Callable[[FloatArray], dict[str, FloatArray]],
    n: int,
    common: Mapping[str, object],
    resamples: int,
    seed: int,
) -> Numbers:
    """Compute numbers from all sentences, and their intervals from resamples.

    Args:
        compute: from how often each sentence counts, shape (R, n), every number, each (R,).
        n: sentences.
        common: fields of every signature.
        resamples: of the bootstrap, 0 for none.
        seed: of the bootstrap.
    """
    values = compute(np.ones((1, n)))
    drawn = [compute(tally.astype(np.float64)) for tally in tallies(n, resamples, seed)]
    replicates = join(drawn, values)
    numbers: dict[str, Estimate | None] = {}
    for name, value in values.items():
        number = float(value[0])
        known = replicates[name][~np.isnan(replicates[name])]
        if np.isnan(number):
            numbers[name] = None
        elif name in SPREADS:
            numbers[name] = pivotal_estimate(number, known, least=0.0)
        else:
            numbers[name] = estimate(number, known)
    signatures = {
        name: sign(
            {
                "metric": name.partition(":")[0],
                **common,
                **({"ci": "95-pivotal"} if name in SPREADS and resamples else {}),
            }
        )
        for name in values
    }
    return Numbers(numbers, replicates, signatures, n, resamples, seed)


def quotient(errors: FloatArray, units: FloatArray) -> FloatArray:
    """Divide; NaN where there are no units."""
    found: FloatArray = np.divide(errors, units, out=np.full(units.shape, np.nan), where=units > 0)
    return found


def present(units: FloatArray) -> tuple[int, ...]:
    """Count the sentences that have something in each group, (n, G)."""
    return tuple(int(count) for count in (units > 0).sum(axis=0))


def totals(units: FloatArray) -> tuple[int, ...]:
    """Count what is in each group, (n, G)."""
    return tuple(int(total) for total in units.sum(axis=0))
