"""Alignments of two sequences by plain dynamic programming, one cell at a time."""

from collections.abc import Sequence


def best_alignments(
    hypothesis: Sequence[str], reference: Sequence[str]
) -> set[tuple[int, int, int, int]]:
    """Return (S, I, D, H) of every alignment with the fewest edits.

    Each cell keeps all counts that are reached with the fewest edits up to it.
    """
    table: dict[tuple[int, int], set[tuple[int, int, int, int]]] = {(0, 0): {(0, 0, 0, 0)}}
    for row in range(len(hypothesis) + 1):
        for column in range(len(reference) + 1):
            if row == column == 0:
                continue
            reached = set()
            if row > 0:
                reached |= {(s, i + 1, d, h) for s, i, d, h in table[row - 1, column]}
            if column > 0:
                reached |= {(s, i, d + 1, h) for s, i, d, h in table[row, column - 1]}
            if row > 0 and column > 0:
                same = hypothesis[row - 1] == reference[column - 1]
                reached |= {
                    (s + (not same), i, d, h + same) for s, i, d, h in table[row - 1, column - 1]
                }
            fewest = min(s + i + d for s, i, d, _ in reached)
            table[row, column] = {counts for counts in reached if sum(counts[:3]) == fewest}
    return table[len(hypothesis), len(reference)]


def edits(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
    """Return the fewest substitutions, insertions and deletions."""
    return sum(next(iter(best_alignments(hypothesis, reference)))[:3])


def error_rate(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """Return edits over units of the references, one utterance after another."""
    wrong = units = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        wrong += edits(hypothesis, reference)
        units += len(reference)
    return wrong / units
