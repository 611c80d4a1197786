"""Synthetic corpora and the stores that are made of them, without fairseq."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.files import locked
from seqdistill.targets.store import (
    DataPrint,
    DictionaryPrint,
    Fingerprint,
    ShardBuilder,
    SideHasher,
    StorePlan,
    StoreSettings,
    StoreWriter,
    TeacherPrint,
    sentence_checksum,
    sparsify,
    write_shard,
)
from seqdistill.teachers import EnsembleStatistics, ensemble_statistics


@dataclass
class Case:
    """A corpus of random sentences, its ensemble's statistics, and a plan of its store."""

    plan: StorePlan
    ids: list[np.ndarray]
    statistics: list[EnsembleStatistics]
    left_out: set[int] = field(default_factory=set)

    @property
    def lengths(self) -> list[int]:
        return [0 if n in self.left_out else len(ids) for n, ids in enumerate(self.ids)]

    def full(self, sentences: list[int], name: str = "mean_probs") -> Tensor:
        """What the ensemble says about the tokens of sentences, one after another."""
        return torch.cat([getattr(self.statistics[n], name) for n in sentences])


def make_case(
    V: int = 40,
    lengths: tuple[int, ...] = (3, 1, 5, 2, 4, 6, 1),
    members: int = 3,
    seed: int = 0,
    sharpness: float = 3.0,
    **settings: Any,
) -> Case:
    """Random members: a shared opinion that favours small piece numbers, and each one's own."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, V, (n,), generator=generator).numpy().astype(np.int64) for n in lengths]
    statistics = []
    zipf = -0.7 * torch.arange(1, V + 1).float().log()
    temperature = settings.get("temperature", 1.0)
    for n in lengths:
        shared = zipf + sharpness * torch.randn(n, V, generator=generator)
        own = torch.randn(members, n, V, generator=generator)
        log_probs = torch.log_softmax(shared + own, dim=-1)
        statistics.append(ensemble_statistics(log_probs, temperature=temperature))
    hasher = SideHasher()
    for sentence in ids:
        hasher.add(sentence, [len(sentence)])
    side = hasher.result()
    symbols = [f"piece{number}" for number in range(V)]
    dictionary = DictionaryPrint.of(symbols)
    teachers = tuple(TeacherPrint(f"{m}.pt", f"{m:064x}") for m in range(members))
    defaults = {"top_k": None if "tail_bound" in settings else 8, "shard_sentences": 3}
    plan = StorePlan(
        StoreSettings(vocabulary_size=V, members=members, **(defaults | settings)),
        Fingerprint(teachers, dictionary, dictionary, DataPrint(len(ids), side, side)),
        symbols,
        {"command": ["made", "by a test"]},
    )
    return Case(plan, ids, statistics)


def build_shard(case: Case, index: int, plan: StorePlan | None = None) -> ShardBuilder:
    """The shard of a case, its sentences added in two batches and out of their order."""
    plan = plan or case.plan
    sentences = plan.settings.sentences_of(index, plan.sentences)
    checksums = [sentence_checksum(case.ids[n], case.ids[n]) for n in sentences]
    builder = ShardBuilder(plan, index, checksums)
    present = [n for n in reversed(sentences) if n not in case.left_out]
    for batch in (present[:1], present[1:]):
        if batch:
            statistics = joined([case.statistics[n] for n in batch])
            lengths = [len(case.ids[n]) for n in batch]
            builder.add(batch, lengths, sparsify(statistics, plan.settings))
    return builder


def joined(parts: list[EnsembleStatistics]) -> EnsembleStatistics:
    names = [n for n, v in vars(parts[0]).items() if isinstance(v, Tensor)]
    return replace(
        parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    )


def write_store(case: Case, folder: Path) -> Path:
    """Make a case's store, or go on with it."""
    with locked(folder):
        writer = StoreWriter(folder, case.plan)
        for index in writer.missing():
            write_shard(folder, build_shard(case, index, writer.plan))
        writer.finish()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a store but its lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@dataclass(frozen=True)
class Squares:
    """Work for the pool: a file per unit; some units fail in a way of their own."""

    folder: Path
    failures: dict[int, str] = field(default_factory=dict)

    def prepare(self) -> Callable[[int], Iterator[int]]:
        def do(unit: int) -> Iterator[int]:
            yield 1
            failure = self.failures.get(unit)
            if failure == "input":
                raise InputError("unit 2 is bad")
            if failure == "bug":
                raise ZeroDivisionError("a bug")
            if failure == "killed":
                import os
                import signal

                os.kill(os.getpid(), signal.SIGKILL)
            (self.folder / str(unit)).write_text(str(unit * unit))
            yield 2

        return do
