"""Read the task's own formats: lines, SGML test sets, LibriSpeech's transcripts."""

import html
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from seqdistill.errors import InputError

_SEGMENT = re.compile(r"<seg[^>]*>(.*?)</seg>", re.DOTALL | re.IGNORECASE)


def read_pairs(source: Path, target: Path) -> Iterator[tuple[bytes, bytes]]:
    """Go through two line-parallel files, as bytes: not all of every corpus can be decoded.

    Raises:
        InputError: one is missing, or they differ in length.
    """
    for path in (source, target):
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected text with one sentence a line")
    with open(source, "rb") as sources, open(target, "rb") as targets:
        for number, (one, other) in enumerate(zip_longest(sources, targets), start=1):
            if one is None or other is None:
                shorter = source if one is None else target
                raise InputError(
                    f"{shorter}: ends after line {number - 1}, before the other side does; the two "
                    "sides must be line-parallel"
                )
            yield one, other


def read_sgm(path: Path) -> list[str]:
    """Return the sentences of an SGML test set, in the order of the file.

    Raises:
        InputError: it is missing or has no ``<seg>``.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a test set with <seg>…</seg>")
    found = _SEGMENT.findall(path.read_text(encoding="utf-8"))
    if not found:
        raise InputError(f"{path}: expected sentences in <seg>…</seg>, found none")
    return [" ".join(html.unescape(text).split()) for text in found]


def read_transcripts(folder: Path) -> list[str]:
    """Return LibriSpeech's transcripts as sentences: ``A CAT SAT`` becomes ``A cat sat.``

    As in the paper: lower case, a capital first, a full stop at the end.

    Args:
        folder: of a split, ``test-clean``, with ``<speaker>/<chapter>/*.trans.txt``.

    Raises:
        InputError: there are no transcripts.
    """
    paths = sorted(folder.glob("*/*/*.trans.txt"))
    if not paths:
        raise InputError(f"{folder}: expected <speaker>/<chapter>/*.trans.txt in it, found none")
    sentences = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            text = line.partition(" ")[2].strip().lower()
            if text:
                sentences.append(text[0].upper() + text[1:] + ".")
    return sentences
