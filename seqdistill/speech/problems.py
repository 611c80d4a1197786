"""What is wrong with files of a data set: every one is listed, counted, and never just dropped."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqdistill.errors import InputError
from seqdistill.files import atomic_write

#: Kind → what it means; the order in which kinds are counted for the user.
KINDS = {
    "unreadable": "cut short, damaged, or no audio",
    "empty": "no samples",
    "missing": "gone since the folder was listed",
    "rate": "another number of samples a second",
    "channels": "more than one channel",
    "too-short": "shorter than the shortest that is wanted",
    "too-long": "longer than the longest that is wanted",
    "no-transcript": "audio without a transcript",
    "no-audio": "a transcript without audio",
    "empty-transcript": "an id without words in the transcripts",
    "duplicate-id": "an id that was there before",
    "format": "audio in a format that is not read",
    "layout": "audio that is not in <speaker>/<chapter>/",
}
_COLUMNS = ("set", "file", "kind", "what")


@dataclass(frozen=True)
class Problem:
    """One thing that keeps an utterance out of a set.

    Attributes:
        set: the set's name.
        file: the file that is to blame, with the line where it is a transcript.
        kind: a key of :data:`KINDS`.
        what: what was expected and found.
    """

    set: str
    file: str
    kind: str
    what: str


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems as a table with tabs; a header alone says that there are none."""
    with atomic_write(path) as handle:
        handle.write("\t".join(_COLUMNS) + "\n")
        for one in problems:
            fields = (one.set, one.file, one.kind, one.what)
            # A name may hold tabs and line ends; the table may not.
            handle.write("\t".join(" ".join(field.split()) for field in fields) + "\n")


def read_problems(path: Path) -> list[Problem]:
    """Read :func:`write_problems`' table; none if there is no file.

    Raises:
        InputError: it is another table.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if lines[0] != "\t".join(_COLUMNS):
        raise InputError(f"{path}:1: expected the columns {', '.join(_COLUMNS)}")
    return [Problem(*line.split("\t")) for line in lines[1:]]


def count_kinds(problems: Iterable[Problem]) -> dict[str, int]:
    """Return how many problems of each kind there are, in the order of :data:`KINDS`."""
    counts = Counter(one.kind for one in problems)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


@dataclass(frozen=True)
class Tolerance:
    """How many problems of a set are put up with: a number, or a share of its files.

    Example:
        >>> Tolerance.parse("2%").allows(4, 200), Tolerance.parse("3").allows(4, 200)
        (True, False)
    """

    count: int | None
    percent: float | None

    @classmethod
    def parse(cls, text: str) -> "Tolerance":
        """Read "20" or "1.5%".

        Raises:
            ValueError: it is neither.
        """
        if text.endswith("%"):
            percent = float(text[:-1])
            if not 0 <= percent <= 100:
                raise ValueError(f"expected 0% to 100%, got {text}")
            return cls(None, percent)
        count = int(text)
        if count < 0:
            raise ValueError(f"expected a number of at least 0, got {text}")
        return cls(count, None)

    def allows(self, problems: int, files: int) -> bool:
        """Say whether so many problems of so many files are few enough."""
        if self.count is not None:
            return problems <= self.count
        assert self.percent is not None  # one of the two is there
        return problems * 100 <= self.percent * files

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{self.percent:g} %"


def counts_text(counts: Sequence[tuple[str, int]]) -> str:
    """Return "2 unreadable, 1 too-long"."""
    return ", ".join(f"{count:,} {kind}" for kind, count in counts)
