from hypothesis import given
from hypothesis import strategies as st

from seqdistill.assessment.word_alignment import ErrorCounts, align_words, count_errors
from tests.reference import word_errors as reference

words = st.lists(st.sampled_from(["a", "b", "ab", "é"]), max_size=7)
utterances = st.lists(st.tuples(words, words), min_size=1, max_size=4)


def count(hypothesis: list[str], truth: list[str], unit: str = "words") -> ErrorCounts:
    return count_errors([" ".join(hypothesis)], [" ".join(truth)], unit=unit)


def edits(hypothesis: list[str], truth: list[str]) -> int:
    return int(count(hypothesis, truth).edits[0])


@given(words)
def test_a_text_is_right_about_itself(text: list[str]) -> None:
    for unit, length in (("words", len(text)), ("characters", len(" ".join(text)))):
        found = count(text, text, unit)
        assert found.edits.tolist() == [0]
        assert found.hits.tolist() == [length]
        assert found.rates.tolist() == [0.0]


@given(utterances)
def test_both_sides_are_accounted_for(pairs: list[tuple[list[str], list[str]]]) -> None:
    sides = [[" ".join(words) for words in side] for side in zip(*pairs, strict=True)]
    found = count_errors(*sides)
    assert found.reference.tolist() == [len(truth) for _, truth in pairs]
    mine = found.substitutions + found.insertions + found.hits
    assert mine.tolist() == [len(hypothesis) for hypothesis, _ in pairs]
    in_characters = count_errors(*sides, unit="characters")
    assert in_characters.reference.tolist() == [len(text) for text in sides[1]]


@given(words, words)
def test_counts_are_those_of_a_best_alignment(hypothesis: list[str], truth: list[str]) -> None:
    for unit, mine, theirs in (
        ("words", hypothesis, truth),
        ("characters", list(" ".join(hypothesis)), list(" ".join(truth))),
    ):
        found = count(hypothesis, truth, unit)
        columns = found.substitutions, found.insertions, found.deletions, found.hits
        best = reference.best_alignments(mine, theirs)
        assert tuple(int(column[0]) for column in columns) in best


@given(words, words)
def test_exchanged_sides_exchange_insertions_and_deletions(x: list[str], y: list[str]) -> None:
    one, other = count(x, y), count(y, x)
    assert one.edits == other.edits
    surplus = len(x) - len(y)
    assert one.insertions - one.deletions == surplus
    assert other.deletions - other.insertions == surplus
    if len(reference.best_alignments(x, y)) == 1:  # otherwise its parts are a choice
        assert (one.insertions, one.deletions) == (other.deletions, other.insertions)
        assert (one.substitutions, one.hits) == (other.substitutions, other.hits)


@given(words, words, words)
def test_edits_are_a_distance(x: list[str], y: list[str], z: list[str]) -> None:
    assert edits(x, y) == edits(y, x) == reference.edits(x, y)
    assert (edits(x, y) == 0) == (x == y)
    assert edits(x, z) <= edits(x, y) + edits(y, z)
    assert abs(len(x) - len(y)) <= edits(x, y) <= max(len(x), len(y))


@given(words, words)
def test_the_alignment_spells_both_texts(hypothesis: list[str], truth: list[str]) -> None:
    places = align_words(" ".join(hypothesis), " ".join(truth))
    assert [p.hypothesis for p in places if p.hypothesis is not None] == hypothesis
    assert [p.reference for p in places if p.reference is not None] == truth
    assert all(p != (None, None) for p in places)
    assert sum(p.hypothesis != p.reference for p in places) == edits(hypothesis, truth)
