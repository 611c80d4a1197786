"""From other corpora to LibriSpeech's layout: what the converters share."""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from recipes.common.audio import Spoken, write_split
from seqdistill.errors import InputError
from seqdistill.files import atomic_write

PROBLEMS = "problems.tsv"


@dataclass
class Problems:
    """What could not be used: file or line, and why.

    Attributes:
        allowed: how many there may be.
        found: those so far.
    """

    allowed: int = 0
    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, place: str, what: str) -> None:
        """Note one.

        Raises:
            InputError: it is one too many.
        """
        self.found.append((place, what))
        if len(self.found) > self.allowed:
            raise InputError(
                f"{place}: {what}. This is problem {len(self.found)}, and {self.allowed} are "
                "allowed; put it right, or allow more (--max-problems): these are then left out "
                f"and listed in {PROBLEMS}"
            )


def normalise(text: str) -> str:
    """Write a transcript as LibriSpeech does: capitals, digits and apostrophes, else spaces.

    Example:
        >>> normalise("Où est-elle ? « C’est l'A_M_I. »")
        "OÙ EST ELLE C'EST L'A M I"
    """
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").upper()
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in text)
    return " ".join(word for word in kept.split() if word.strip("'"))


def convert(
    output: Path, utterances: Callable[[Problems], Iterable[Spoken]], total: int, allowed: int
) -> Problems:
    """Write a set to a folder that is whole or not there.

    Args:
        output: the folder, which must not exist; what a killed process left of it is removed.
        utterances: yields them, and notes what cannot be used.
        total: how many there are, usable or not, for the progress bar.
        allowed: how many may be unusable.

    Raises:
        InputError: the folder exists, there is a problem too many, or nothing is left.
    """
    if output.exists():
        raise InputError(f"{output} exists already; remove it or name another folder")
    part = output.with_name(f".converting-{output.name}")
    shutil.rmtree(part, ignore_errors=True)
    problems = Problems(allowed)
    try:
        with tqdm(total=total, unit=" utterances", file=sys.stderr, disable=None) as bar:

            def counted() -> Iterator[Spoken]:
                for utterance in utterances(problems):
                    yield utterance
                    bar.update()

            write_split(part, counted())
        if problems.found:
            with atomic_write(part / PROBLEMS) as handle:
                handle.writelines(f"{place}\t{what}\n" for place, what in problems.found)
        part.replace(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return problems


def converter_parser(program: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser with what every converter takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m recipes.librispeech.{program}",
        description=description,
        epilog=f"example: python -m recipes.librispeech.{program} {example}",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the corpus")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the split folder to make")
    parser.add_argument(
        "--max-problems", type=int, default=0, metavar="N",
        help="leave out and list up to this many that cannot be used (default: %(default)s)",
    )  # fmt: skip
    return parser


def run(
    given: argparse.Namespace,
    read: Callable[[], tuple[Sequence[object], Callable[[Problems], Iterable[Spoken]]]],
) -> int:
    """Run a converter; returns the exit status.

    Args:
        given: the command line.
        read: lists what there is, and returns how to read it.
    """
    try:
        entries, utterances = read()
        problems = convert(given.output, utterances, len(entries), given.max_problems)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    left_out = len(problems.found)
    where = f" ({given.output / PROBLEMS})" if left_out else ""
    print(f"{given.output}: {len(entries) - left_out:,} utterances, {left_out:,} left out{where}")
    return 0
