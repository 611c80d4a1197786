"""How a transcript differs from its reference: aligned words, and counts of each utterance.

An utterance's hypothesis is aligned with its reference by the fewest substitutions, insertions and
deletions (jiwer does it). Several alignments may need equally few, and two substitutions in one be
an insertion and a deletion in another: the sum depends on the texts alone, its parts on jiwer.

An empty reference has no units: what was recognised there counts as insertions. An empty hypothesis
is a deletion of every unit.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from seqdistill.assessment.bootstrap import IntArray
from seqdistill.assessment.checks import FloatArray
from seqdistill.errors import InputError

_OPERATIONS = ("substitute", "insert", "delete", "equal")  # jiwer's names, in the order of columns


@dataclass(frozen=True)
class Normalisation:
    """What is done to hypotheses and references alike before they are compared.

    White space is collapsed always: words are what stands between white space.

    Attributes:
        lowercase: case makes no difference.
        remove_punctuation: every character of Unicode's category P is taken out, apostrophes and
            hyphens inside words too ("well-known" becomes one word, "wellknown").
    """

    lowercase: bool = False
    remove_punctuation: bool = False

    def __call__(self, text: str) -> str:
        r"""Return the text as it is compared: words with one space between them.

        Example:
            >>> Normalisation(lowercase=True, remove_punctuation=True)("  Well, he's\tHERE. ")
            'well hes here'
        """
        if self.lowercase:
            text = text.lower()
        if self.remove_punctuation:
            text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
        return " ".join(text.split())

    def fields(self) -> dict[str, object]:
        """Return the fields of a signature."""
        return {
            "case": "lower" if self.lowercase else "mixed",
            "punct": "removed" if self.remove_punctuation else "kept",
            "space": "collapsed",
        }


AS_WRITTEN = Normalisation()


@dataclass(frozen=True)
class ErrorCounts:
    """Errors of every utterance, in words or in characters.

    Attributes:
        substitutions: shape (n,), integers, as all of these.
        insertions: units of the hypothesis that the reference lacks.
        deletions: units of the reference that the hypothesis lacks.
        hits: units that both have.
    """

    substitutions: IntArray
    insertions: IntArray
    deletions: IntArray
    hits: IntArray

    @property
    def edits(self) -> IntArray:
        """Substitutions, insertions and deletions together, shape (n,)."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def reference(self) -> IntArray:
        """Units of the references, S + D + H, shape (n,)."""
        return self.substitutions + self.deletions + self.hits

    @property
    def rates(self) -> FloatArray:
        """Error rate of each utterance, shape (n,), 0 for no error; above 1 is possible.

        An empty reference counts as one unit.
        """
        rates: FloatArray = self.edits / np.maximum(self.reference, 1)
        return rates

    def to_dict(self) -> dict[str, int]:
        """Return the sums over all utterances."""
        totals = {name: int(column.sum()) for name, column in vars(self).items()}
        return {**totals, "reference": int(self.reference.sum())}


class Aligned(NamedTuple):
    """One place of an alignment: a word of either side, None where that side has none there."""

    reference: str | None
    hypothesis: str | None


def count_errors(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    unit: str = "words",
    normalisation: Normalisation = AS_WRITTEN,
) -> ErrorCounts:
    """Count the errors of every utterance.

    Args:
        hypotheses: n texts.
        references: n texts, in the same order.
        unit: ``words``, or ``characters``, the spaces between words among them.
        normalisation: of both.

    Raises:
        InputError: as :func:`word_errors`, or the unit is unknown.

    Example:
        >>> count_errors(["a b c"], ["a x"]).edits.tolist()
        [2]
    """
    chunks = _align(hypotheses, references, unit, normalisation)[2]
    counts = np.zeros((len(chunks), len(_OPERATIONS)), dtype=np.int64)
    for row, alignment in enumerate(chunks):
        for chunk in alignment:
            # An insertion has no length on the reference's side, a deletion none on the other's.
            mine = chunk.hyp_end_idx - chunk.hyp_start_idx
            theirs = chunk.ref_end_idx - chunk.ref_start_idx
            counts[row, _OPERATIONS.index(chunk.type)] += max(mine, theirs)
    return ErrorCounts(*counts.T)


def align_words(
    hypothesis: str, reference: str, *, normalisation: Normalisation = AS_WRITTEN
) -> list[Aligned]:
    """Return the alignment that the counts of one utterance come from.

    Raises:
        InputError: jiwer is not installed.

    Example:
        >>> [(a.reference, a.hypothesis) for a in align_words("a x c d", "a b c")]
        [('a', 'a'), ('b', 'x'), ('c', 'c'), (None, 'd')]
    """
    mine, theirs, chunks = _align([hypothesis], [reference], "words", normalisation)
    aligned: list[Aligned] = []
    for chunk in chunks[0]:
        of_reference = theirs[0][chunk.ref_start_idx : chunk.ref_end_idx]
        of_hypothesis = mine[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
        for place in range(max(len(of_reference), len(of_hypothesis))):
            pair = (side[place] if side else None for side in (of_reference, of_hypothesis))
            aligned.append(Aligned(*pair))
    return aligned


def error_fields(unit: str, normalisation: Normalisation = AS_WRITTEN) -> dict[str, object]:
    """Return what a signature says of an error rate's making.

    Raises:
        InputError: jiwer is not installed.
    """
    _jiwer()
    from importlib.metadata import version

    return {
        "nrefs": 1,
        "unit": unit if unit == "words" else "characters+spaces",
        **normalisation.fields(),
        "align": f"jiwer-{version('jiwer')}",
    }


def _align(
    hypotheses: Sequence[str], references: Sequence[str], unit: str, normalisation: Normalisation
) -> tuple[list[list[str]], list[list[str]], list[Any]]:
    """Units of the hypotheses, those of the references, and jiwer's chunks of each utterance."""
    if len(hypotheses) != len(references):
        raise InputError(
            f"expected one reference a hypothesis, got {len(hypotheses)} hypotheses "
            f"and {len(references)} references"
        )
    if not hypotheses:
        raise InputError("expected at least one hypothesis, got none")
    if unit not in ("words", "characters"):
        raise InputError(f"expected the unit words or characters, got {unit!r}")
    jiwer = _jiwer()
    split = jiwer.ReduceToListOfListOfWords if unit == "words" else jiwer.ReduceToListOfListOfChars
    found = jiwer.process_words(
        [normalisation(text) for text in references],
        [normalisation(text) for text in hypotheses],
        reference_transform=split(),
        hypothesis_transform=split(),
    )
    return found.hypotheses, found.references, found.alignments


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise InputError('word error rates need jiwer: pip install "seqdistill[wer]"') from error
    return jiwer
