"""Changes of error by group, written out: one word, one group after another."""

from collections.abc import Callable, Sequence

Changes = dict[int, tuple[float, float]]


def changes_of_error(
    student: Sequence[str],
    teacher: Sequence[str],
    references: Sequence[str],
    group: Callable[[int, str], int],
) -> Changes:
    """Group → relative change of missed and of false words, where the teacher has both."""
    totals: dict[int, list[int]] = {}
    for system, texts in enumerate((student, teacher)):
        for sentence, (text, reference) in enumerate(zip(texts, references, strict=True)):
            for kind, (here, there) in enumerate(((reference, text), (text, reference))):
                left = there.split()
                for word in here.split():
                    if word in left:
                        left.remove(word)
                        continue
                    row = totals.setdefault(group(sentence, word), [0, 0, 0, 0])
                    row[2 * system + kind] += 1
    return {
        place: ((missed - missed_by) / missed_by, (false - false_by) / false_by)
        for place, (missed, false, missed_by, false_by) in totals.items()
        if missed_by and false_by
    }


def combined_error_variance(changes: Changes) -> float:
    """Mean squared distance of the groups' changes from their mean."""
    count = len(changes)
    centre = [sum(pair[kind] for pair in changes.values()) / count for kind in (0, 1)]
    squared = [
        (missed - centre[0]) ** 2 + (false - centre[1]) ** 2 for missed, false in changes.values()
    ]
    return sum(squared) / count


def symmetric_distance_error(changes: Changes) -> float:
    """Mean distance of the two changes of a group."""
    return sum(abs(missed - false) for missed, false in changes.values()) / len(changes)
