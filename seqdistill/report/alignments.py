"""Alignments of transcripts as text: reference above hypothesis, and what happened below."""

from collections.abc import Sequence

from seqdistill.assessment.word_alignment import Aligned

_NOTHING = "*"  # repeated to the width of the word on the other side
_NAMES = ("ref ", "hyp ", "    ")


def format_alignment(places: Sequence[Aligned], *, width: int = 100) -> str:
    """Return lines in threes whose columns are words: S substituted, I inserted, D deleted.

    Args:
        places: of :func:`~seqdistill.assessment.word_alignment.align_words`.
        width: characters of a line; a longer alignment goes on below.

    Example:
        >>> from seqdistill.assessment.word_alignment import align_words
        >>> print(format_alignment(align_words("a large ouse", "a house")))
        ref  a ***** house
        hyp  a large ouse
                 I     S
    """
    blocks: list[list[tuple[str, str, str]]] = [[]]
    used = 0
    for place in places:
        cells = _cells(place)
        if blocks[-1] and used + 1 + len(cells[0]) > width:
            blocks.append([])
        if not blocks[-1]:
            used = len(_NAMES[0])
        used += 1 + len(cells[0])
        blocks[-1].append(cells)
    return "\n".join(
        " ".join(line).rstrip() for block in blocks for line in zip(_NAMES, *block, strict=True)
    ).rstrip("\n")


def _cells(place: Aligned) -> tuple[str, str, str]:
    """Reference, hypothesis and operation, of one width."""
    width = max(len(word) for word in place if word is not None)
    reference, hypothesis = (
        _NOTHING * width if word is None else word.ljust(width) for word in place
    )
    return reference, hypothesis, _operation(place).center(width)


def _operation(place: Aligned) -> str:
    if place.reference is None:
        return "I"
    if place.hypothesis is None:
        return "D"
    return "" if place.reference == place.hypothesis else "S"
