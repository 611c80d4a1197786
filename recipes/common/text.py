"""Plain text in, plain text out: what every recipe's ``data.py`` needs.

A recipe's ``data.py`` defines a frozen dataclass ``DataOptions`` and a function
``write_text(options, folder, source_lang, target_lang)`` and ends with ``main(DataOptions,
write_text)``. It writes one sentence a line to ``train``, ``valid``, ``test`` and one file a
further set: ``<set>.<source_lang>`` and, where a reference exists, ``<set>.<target_lang>``. Where
it reads files, a function ``source_files(options)`` lists them, so that the runner sees a change.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from recipes.common.config import build
from seqdistill.errors import InputError
from seqdistill.files import atomic_write


def read_lines(path: str | Path, limit: int | None = None) -> list[str]:
    """Read a UTF-8 text file, one sentence a line.

    Args:
        path: the file.
        limit: read at most this many lines; None reads all.

    Raises:
        InputError: the file is missing or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected text with one sentence a line")
    # Only "\n" ends a line: str.splitlines would also cut at form feeds and U+2028, and the two
    # sides of a parallel text would then no longer match.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if lines == [""]:
        raise InputError(f"{path}: the file is empty; expected text with one sentence a line")
    return lines if limit is None else lines[:limit]


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write one sentence a line, the file whole or not at all."""
    with atomic_write(path) as handle:
        handle.writelines(f"{line}\n" for line in lines)


def write_parallel(
    folder: Path, name: str, source: tuple[str, Sequence[str]], target: tuple[str, Sequence[str]]
) -> None:
    """Write the two sides of a set, each given as (language, lines).

    Raises:
        InputError: the sides differ in length.
    """
    (source_lang, source_lines), (target_lang, target_lines) = source, target
    if len(source_lines) != len(target_lines):
        raise InputError(
            f"the set {name!r} has {len(source_lines)} {source_lang} lines but "
            f"{len(target_lines)} {target_lang} lines; the two sides must be line-parallel"
        )
    write_lines(folder / f"{name}.{source_lang}", source_lines)
    write_lines(folder / f"{name}.{target_lang}", target_lines)


def permute_words(lines: Iterable[str], seed: int) -> list[str]:
    """Shuffle the words inside every line: the same words and lengths, no grammar.

    Example:
        >>> sorted(permute_words(["the cat saw a dog"], seed=1)[0].split())
        ['a', 'cat', 'dog', 'saw', 'the']
    """
    generator = random.Random(seed)
    permuted = []
    for line in lines:
        words = line.split()
        generator.shuffle(words)
        permuted.append(" ".join(words))
    return permuted


def main(
    options_class: type[Any],
    write_text: Callable[[Any, Path, str, str], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Command line of a recipe's ``data.py``; the runner's first step calls it."""
    parser = argparse.ArgumentParser(description="write the text of a recipe's data sets")
    parser.add_argument("--options", default="{}", metavar="JSON", help="data.options of the YAML")
    parser.add_argument("--source-lang", required=True)
    parser.add_argument("--target-lang", required=True)
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    given = parser.parse_args(arguments)
    try:
        options = build(options_class, json.loads(given.options), "data.options")
        write_text(options, given.output, given.source_lang, given.target_lang)
    except InputError as error:
        parser.exit(1, f"error: {error}\n")
