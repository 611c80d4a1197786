"""Several numbers of one system with their intervals, signatures and resamples."""

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from seqdistill.assessment.bootstrap import Comparison, Estimate, compare
from seqdistill.assessment.checks import FloatArray
from seqdistill.errors import InputError


class Resampled(Protocol):
    """What two systems are compared by."""

    @property
    def numbers(self) -> Mapping[str, Estimate | None]:
        """By name; None where a number does not exist."""

    @property
    def replicates(self) -> Mapping[str, FloatArray]:
        """The same of each resample, shape (R,), NaN where a number does not exist."""

    @property
    def n(self) -> int:
        """Sentences."""

    @property
    def resamples(self) -> int:
        """Bootstrap resamples."""

    @property
    def seed(self) -> int:
        """Of the bootstrap."""


@dataclass(frozen=True)
class Numbers:
    """Several numbers of one system.

    Attributes:
        numbers: by name; None where a number does not exist.
        replicates: the same of each resample, shape (R,), NaN where a number does not exist.
        signatures: by the same names.
        n: sentences.
        resamples: bootstrap resamples, 0 for none.
        seed: of the bootstrap.
    """

    numbers: dict[str, Estimate | None]
    replicates: dict[str, FloatArray] = field(repr=False, compare=False)
    signatures: dict[str, str]
    n: int
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return what a JSON file holds of the numbers."""
        return {
            name: number and {**asdict(number), "signature": self.signatures[name]}
            for name, number in self.numbers.items()
        }


def compare_numbers(
    first: Resampled, second: Resampled, *, pivotal: Container[str] = ()
) -> dict[str, Comparison | None]:
    """Compare two results on the same sentences by the paired bootstrap.

    Args:
        first: one of them.
        second: the other.
        pivotal: names of biased numbers, whose differences get pivotal intervals.

    Returns:
        By name of the numbers that both have: first − second; None where one does not exist.

    Raises:
        InputError: they differ in the number of sentences, of resamples, or in the seed.
    """
    for name in ("n", "resamples", "seed"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise InputError(f"a paired bootstrap needs one {name} of both, got {one} and {other}")
    comparisons: dict[str, Comparison | None] = {}
    for name in (name for name in first.numbers if name in second.numbers):
        one, other = first.numbers[name], second.numbers[name]
        comparisons[name] = None
        if one is not None and other is not None:
            comparisons[name] = compare(
                one.value, other.value, first.replicates[name], second.replicates[name],
                seed=first.seed, pivotal=name in pivotal,
            )  # fmt: skip
    return comparisons


def join(chunks: list[dict[str, FloatArray]], names: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Join the replicates of several chunks of resamples; empty arrays where there is none."""
    return {
        name: np.concatenate([np.empty(0), *(chunk[name] for chunk in chunks)]) for name in names
    }
