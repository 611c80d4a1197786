"""What a store was made of: teachers, dictionaries and data, and how two such differ."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqdistill.files import sha256_of_file
from seqdistill.targets.store.files import Array


@dataclass(frozen=True)
class TeacherPrint:
    """One teacher's checkpoint.

    Attributes:
        name: of the file, for messages; not compared.
        sha256: of the file.
    """

    name: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> "TeacherPrint":
        """Return the print of a checkpoint."""
        return cls(Path(path).name, sha256_of_file(Path(path)))


@dataclass(frozen=True)
class DictionaryPrint:
    """A dictionary's entries in their order.

    Attributes:
        size: V.
        sha256: of the symbols.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, symbols: Sequence[str]) -> "DictionaryPrint":
        """Return the print of a dictionary's symbols."""
        # No symbol holds a NUL, so no two lists of symbols join to one text.
        return cls(len(symbols), hashlib.sha256("\0".join(symbols).encode()).hexdigest())


@dataclass(frozen=True)
class SidePrint:
    """One side of a parallel corpus.

    Attributes:
        tokens: of all sentences, their ends counted.
        sha256: of the sentences' lengths and token ids.
    """

    tokens: int
    sha256: str


@dataclass(frozen=True)
class DataPrint:
    """A parallel corpus: the token ids of both sides of each sentence, in order.

    Attributes:
        sentences: how many.
        source: the source side.
        target: the target side; its tokens are those that have targets.
    """

    sentences: int
    source: SidePrint
    target: SidePrint


class SideHasher:
    """Builds a :class:`SidePrint`, fed with any number of sentences at a time."""

    def __init__(self) -> None:
        self._ids = hashlib.sha256()
        self._lengths = hashlib.sha256()
        self._tokens = 0

    def add(self, ids: Array, lengths: Array | Sequence[int]) -> None:
        """Add sentences: their ids one after another, and their lengths."""
        self._ids.update(np.ascontiguousarray(ids, "<u4").data)
        self._lengths.update(np.ascontiguousarray(lengths, "<u4").data)
        self._tokens += len(ids)

    def result(self) -> SidePrint:
        """Return the print of what was added."""
        both = hashlib.sha256(self._lengths.digest() + self._ids.digest())
        return SidePrint(self._tokens, both.hexdigest())


@dataclass(frozen=True)
class Fingerprint:
    """Everything that a store's content depends on, but for its settings."""

    teachers: tuple[TeacherPrint, ...]
    source_dictionary: DictionaryPrint
    target_dictionary: DictionaryPrint
    data: DataPrint

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON keeps."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Fingerprint":
        """Read back :meth:`to_dict`."""
        return cls(
            tuple(TeacherPrint(**teacher) for teacher in record["teachers"]),
            DictionaryPrint(**record["source_dictionary"]),
            DictionaryPrint(**record["target_dictionary"]),
            data_print_from_dict(record["data"]),
        )


def data_print_from_dict(record: Mapping[str, Any]) -> DataPrint:
    """Read back ``asdict`` of a :class:`DataPrint`."""
    return DataPrint(
        record["sentences"], SidePrint(**record["source"]), SidePrint(**record["target"])
    )


def first_different_symbol(expected: Sequence[str], found: Sequence[str]) -> str:
    """Say at which entry two dictionaries differ first."""
    pairs = enumerate(zip(expected, found, strict=False))
    where = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(found)))
    theirs, mine = (repr(x[where]) if where < len(x) else "nothing" for x in (expected, found))
    return f"entry {where} is {theirs} in the store and {mine} here"
