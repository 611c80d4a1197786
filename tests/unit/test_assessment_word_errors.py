import random
import sys

import numpy as np
import pytest

import seqdistill
from seqdistill.assessment import compare_numbers, sentence_quality, word_errors
from seqdistill.assessment.quality import sentence_signature
from seqdistill.assessment.selective import corpus_score
from seqdistill.assessment.word_alignment import (
    Aligned,
    Normalisation,
    align_words,
    count_errors,
)
from seqdistill.errors import InputError
from tests.reference import word_errors as reference

# By hand: one substitution; one deletion and one insertion around two hits; nothing wrong.
HYPOTHESES = ["four two five", "b c x", "yes"]
REFERENCES = ["four too five", "a b c", "yes"]


def test_rates_computed_by_hand() -> None:
    found = word_errors(HYPOTHESES, REFERENCES, resamples=0)
    assert found.words.to_dict() == {
        "substitutions": 1, "insertions": 1, "deletions": 1, "hits": 5, "reference": 7,
    }  # fmt: skip
    rates = {name: number.value for name, number in found.rates.numbers.items()}
    # Characters, spaces among them: "two" for "too" is one substitution of 13; three
    # of the five of "a b c" turn it into "b c x"; "yes" has 3.
    assert rates == pytest.approx(
        {
            "wer": 3 / 7, "substitutions": 1 / 7, "insertions": 1 / 7, "deletions": 1 / 7,
            "ser": 2 / 3, "cer": (1 + 3) / (13 + 5 + 3),
        }
    )  # fmt: skip
    assert found.words.rates == pytest.approx([1 / 3, 2 / 3, 0])
    assert found.words.edits.tolist() == [1, 2, 0]
    assert all(number.low is None for number in found.rates.numbers.values())


def test_empty_texts() -> None:
    # A reference without words: what was recognised there is inserted.
    hypotheses, references = ["", "uh oh", "", "a"], ["a b", "", "", "a"]
    found = word_errors(hypotheses, references, resamples=0)
    assert found.words.deletions.tolist() == [2, 0, 0, 0]
    assert found.words.insertions.tolist() == [0, 2, 0, 0]
    assert found.rates.numbers["wer"].value == pytest.approx(4 / 3)
    assert found.rates.numbers["ser"].value == 0.5
    assert found.words.rates.tolist() == [1.0, 2.0, 0.0, 0.0]
    assert sentence_quality(hypotheses, references, metric="wer").tolist() == [0, -100, 100, 100]
    assert align_words("", "") == []
    assert align_words("a", "") == [Aligned(None, "a")]
    assert align_words("", "a") == [Aligned("a", None)]


def test_a_set_without_a_reference_word_has_no_rate() -> None:
    found = word_errors(["uh", ""], ["", " "], resamples=20)
    for name in ("wer", "substitutions", "insertions", "deletions", "cer"):
        assert found.rates.numbers[name] is None
    assert found.rates.numbers["ser"].value == 0.5
    assert found.to_dict()["rates"]["wer"] is None
    # Resamples without a word leave the interval to the others.
    found = word_errors(["a", ""], ["a b", ""], resamples=200)
    drawn = found.rates.replicates["wer"]
    assert np.isnan(drawn).any()
    assert (found.rates.numbers["wer"].low, found.rates.numbers["wer"].high) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("normalisation", "compared"),
    [
        (Normalisation(), "Well, HE'S here – 3.5 %"),
        (Normalisation(lowercase=True), "well, he's here – 3.5 %"),
        (Normalisation(remove_punctuation=True), "Well HES here 35"),
        (Normalisation(lowercase=True, remove_punctuation=True), "well hes here 35"),
    ],
)
def test_normalisation(normalisation: Normalisation, compared: str) -> None:
    text = "  Well,\tHE'S here –\u00a03.5  % "
    assert normalisation(text) == compared
    found = word_errors([text], [compared], normalisation=normalisation, resamples=0)
    assert found.rates.numbers["wer"].value == 0.0
    signature = found.rates.signatures["wer"]
    assert ("case:lower" if normalisation.lowercase else "case:mixed") in signature
    assert ("punct:removed" if normalisation.remove_punctuation else "punct:kept") in signature


def test_normalisation_decides() -> None:
    texts = ["HELLO, world"], ["hello world"]
    values = [
        word_errors(*texts, normalisation=n, resamples=0).rates.numbers["wer"].value
        for n in (Normalisation(), Normalisation(lowercase=True), Normalisation(True, True))
    ]
    assert values == [0.5, 0.5, 0.0]
    normalised = Normalisation(True, True)
    assert sentence_quality(*texts, metric="wer", normalisation=normalised)[0] == 100.0
    score = corpus_score("wer", *texts, normalisation=normalised)
    assert score.counts.tolist() == [[0, 2]]


def texts(n: int, seed: int) -> tuple[list[str], list[str]]:
    stream = random.Random(seed)
    pairs = [
        tuple(" ".join(stream.choices("abcde", k=stream.randrange(low, 9))) for low in (0, 1))
        for _ in range(n)
    ]
    return [h for h, _ in pairs], [r for _, r in pairs]


def test_agrees_with_plain_dynamic_programming() -> None:
    hypotheses, references = texts(60, 3)
    found = word_errors(hypotheses, references, resamples=0)
    words = [[t.split() for t in side] for side in (hypotheses, references)]
    assert found.rates.numbers["wer"].value == pytest.approx(reference.error_rate(*words))
    characters = reference.error_rate(hypotheses, references)
    assert found.rates.numbers["cer"].value == pytest.approx(characters)
    c = found.words
    for index, (h, r) in enumerate(zip(*words, strict=True)):
        counts = tuple(
            int(column[index]) for column in (c.substitutions, c.insertions, c.deletions, c.hits)
        )
        assert counts in reference.best_alignments(h, r)


def test_intervals_are_those_of_resampled_utterances() -> None:
    hypotheses, references = texts(25, 4)
    found = word_errors(hypotheses, references, resamples=30, seed=9)
    draws = np.random.default_rng([9, 0]).integers(0, 25, size=(30, 25))
    for row, drawn in enumerate(draws):
        one = word_errors([hypotheses[i] for i in drawn], [references[i] for i in drawn],
                          resamples=0)  # fmt: skip
        for name, number in one.rates.numbers.items():
            assert found.rates.replicates[name][row] == pytest.approx(number.value)
    low, high = np.quantile(found.rates.replicates["wer"], [0.025, 0.975])
    number = found.rates.numbers["wer"]
    assert (number.low, number.high) == (pytest.approx(low), pytest.approx(high))


def test_paired_comparison() -> None:
    _, references = texts(200, 5)
    worse = [r.replace("a", "x") for r in references]
    better = [r.replace("a", "x", 1) for r in references]
    one, two = (word_errors(h, references, resamples=200, seed=1).rates for h in (better, worse))
    compared = compare_numbers(one, two)
    assert compared["wer"].difference.high < 0.0
    assert compared["wer"].p_value == pytest.approx(1 / 201)
    assert compared["insertions"].difference.value == 0.0
    assert compared["insertions"].p_value == 1.0
    assert compare_numbers(one, one)["wer"].p_value == 1.0


def test_signatures() -> None:
    from importlib.metadata import version

    import jiwer  # noqa: F401

    found = word_errors(HYPOTHESES, REFERENCES, resamples=10, seed=2).rates
    common = f"case:mixed|punct:kept|space:collapsed|align:jiwer-{version('jiwer')}"
    tail = f"bs:10|rs:2|ci:95|version:{seqdistill.__version__}"
    assert found.signatures["wer"] == f"metric:wer|nrefs:1|unit:words|{common}|n:3|ref:7|{tail}"
    assert found.signatures["cer"] == (
        f"metric:cer|nrefs:1|unit:characters+spaces|{common}|n:3|ref:21|{tail}"
    )
    lower = sentence_signature("wer", normalisation=Normalisation(lowercase=True))
    assert "unit:words|case:lower" in lower
    assert "empty:one-word" in lower


def test_selective_score_is_the_corpus_rate() -> None:
    hypotheses, references = texts(20, 6)
    score = corpus_score("wer", hypotheses, references)
    assert score.name == "wer"
    kept = [3, 5, 9]
    expected = word_errors([hypotheses[i] for i in kept], [references[i] for i in kept])
    assert score.of_sums(score.counts[kept].sum(axis=0)[None])[0] == pytest.approx(
        100 * expected.rates.numbers["wer"].value
    )
    assert np.isnan(score.of_sums(np.zeros((1, 2)))).all()
    assert corpus_score("chrf", hypotheses, references).name == "bleu"


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="1 hypotheses and 2 references"):
        word_errors(["a"], ["a", "b"])
    with pytest.raises(InputError, match="at least one hypothesis"):
        count_errors([], [])
    with pytest.raises(InputError, match="words or characters, got 'phones'"):
        count_errors(["a"], ["a"], unit="phones")
    with pytest.raises(InputError, match="0 or more"):
        word_errors(["a"], ["a"], resamples=-1)
    monkeypatch.setitem(sys.modules, "jiwer", None)
    for call in (
        lambda: word_errors(["a"], ["a"]),
        lambda: sentence_quality(["a"], ["a"], metric="wer"),
        lambda: sentence_signature("wer"),
    ):
        with pytest.raises(InputError, match=r'pip install "seqdistill\[wer\]"'):
            call()
