"""Results of runs as files, and a folder of those that need not be made again.

A run takes minutes, the whole comparison hours; its numbers are two small files. Kept in an archive
they stand in the tables of whoever has it, beside the runs of other machines and days.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.methods.samples import Sampled, read_samples
from seqdistill.assessment.bootstrap import Estimate
from seqdistill.errors import InputError
from seqdistill.files import atomic_write

SCHEMA = "seqdistill.method-results/2"


@dataclass(frozen=True)
class RunResults:
    """What is known of a run that is done.

    Attributes:
        content: ``run``, ``updates``, ``settings``, ``metrics`` and ``facts``.
        path: of the resampled numbers.
    """

    content: Mapping[str, Any]
    path: Path

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Numbers with their intervals, where they have one, by metric."""
        return {name: Estimate(**one) for name, one in self.content["metrics"].items()}

    @property
    def facts(self) -> Mapping[str, Any]:
        """Label, commits, machine, versions, the score's signature, trainings that were resumed."""
        found: Mapping[str, Any] = self.content["facts"]
        return found

    @cached_property
    def sampled(self) -> dict[str, Sampled]:
        """Its numbers over resampled sentences."""
        return read_samples(self.path, {name: one.value for name, one in self.metrics.items()})


def read_results(path: Path, samples: Path) -> RunResults | None:
    """Return a run's results, None where it is not done.

    Raises:
        InputError: the file is of another version of the bench, or no JSON.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, {error}; remove it") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: expected {SCHEMA}, got {schema}; remove it")
    return RunResults(content, samples)


@dataclass(frozen=True)
class Archive:
    """A folder of results: ``RUN.json`` and ``RUN.npz`` of each run."""

    root: Path

    def __post_init__(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"--archive {self.root}: expected a folder, got a file")

    def names(self) -> list[str]:
        """Return the names of the runs that it has."""
        return sorted(path.stem for path in self.root.glob("*.json"))

    def find(self, name: str, settings: str) -> RunResults | None:
        """Return the results of a run, None where they are missing or were made in another way.

        Args:
            name: the run's.
            settings: the hash of how it is made now.
        """
        found = read_results(self._json(name), self._json(name).with_suffix(".npz"))
        return found if found is not None and found.content["settings"] == settings else None

    def has(self, name: str) -> bool:
        """Whether there are results of that run, in whatever way they were made."""
        return self._json(name).is_file()

    def fitting(self, settings: Mapping[str, str]) -> set[str]:
        """Return those of the runs that need not be made again.

        Args:
            settings: the hash of how each is made now, by name.
        """
        return {name for name, how in settings.items() if self.find(name, how) is not None}

    def add(self, name: str, results: RunResults) -> None:
        """Keep a run's results; those of the same run that are there are replaced."""
        content = {key: value for key, value in results.content.items() if key != "recipe"}
        path = self._json(name)
        with (
            open(results.path, "rb") as source,
            atomic_write(path.with_suffix(".npz"), binary=True) as handle,
        ):
            shutil.copyfileobj(source, handle)
        with atomic_write(path) as handle:
            handle.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _json(self, name: str) -> Path:
        return self.root / f"{name}.json"
