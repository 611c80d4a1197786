import numpy as np
import pytest
import sacrebleu

from seqdistill.assessment.disagreement import output_disagreement
from seqdistill.errors import InputError

OUTPUTS = [
    ["the small house is old", "guten Morgen Tom", "no"],
    ["the house is old", "guten Morgen Tom", "yes"],
    ["a small house is very old", "guten Tag", "no"],
]


def test_word_errors_by_hand() -> None:
    # "a b c d" against "a x d": one substitution, one deletion, over 3 words; back: over 4.
    found = output_disagreement([["a b c d"], ["a x d"]], metric="wer")
    assert found == pytest.approx([(2 / 3 + 2 / 4) / 2], rel=1e-14)


def test_bleu_by_hand() -> None:
    # Precisions 3/4, 2/3, 1/2 and, none of one matching, 1/2 by exponential smoothing.
    found = output_disagreement([["a b c d"], ["a b c e"]])
    assert found == pytest.approx([1 - (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25], rel=1e-12)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_against_every_pair_by_itself(metric: str) -> None:
    score = {
        "bleu": lambda y, r: 1 - sacrebleu.sentence_bleu(y, [r]).score / 100,
        "chrf": lambda y, r: 1 - sacrebleu.sentence_chrf(y, [r]).score / 100,
        "ter": lambda y, r: sacrebleu.sentence_ter(y, [r]).score / 100,
    }[metric]
    expected = []
    for texts in zip(*OUTPUTS, strict=True):
        pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
        expected.append(np.mean([score(texts[i], texts[j]) for i, j in pairs]))
    assert output_disagreement(OUTPUTS, metric=metric) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter", "wer"])
def test_members_that_agree_differ_by_nothing(metric: str) -> None:
    texts = ["the same", "", "x"]
    assert output_disagreement([texts] * 4, metric=metric).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter", "wer"])
def test_the_order_of_members_changes_nothing(metric: str) -> None:
    found = output_disagreement(OUTPUTS, metric=metric)
    assert output_disagreement(OUTPUTS[::-1], metric=metric) == pytest.approx(found, rel=1e-14)
    assert (found > 0).all()


def test_one_empty_text() -> None:
    assert output_disagreement([["a b"], [""]], metric="bleu").tolist() == [1.0]
    assert output_disagreement([["a b"], [""]], metric="chrf").tolist() == [1.0]
    # Two insertions against a reference that counts as one word, and two deletions of two.
    assert output_disagreement([["a b"], [""]], metric="wer").tolist() == [1.5]
    with pytest.raises(InputError, match=r"sentence 0 .* is empty .* choose another metric"):
        output_disagreement([["a b"], [""]], metric="ter")


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least 2 members, got 1"):
        output_disagreement([["a"]])
    with pytest.raises(InputError, match="as many sentences from each member, got 1, 2"):
        output_disagreement([["a"], ["a", "b"]])
    with pytest.raises(InputError, match="of bleu, chrf, ter, wer, got 'meteor'"):
        output_disagreement([["a"], ["b"]], metric="meteor")
