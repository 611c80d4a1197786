import sys

import pytest
import sacrebleu

from seqdistill.assessment import corpus_quality, sentence_quality
from seqdistill.errors import InputError

HYPOTHESES = ["The cat sat on the mat today .", "He said hello .", "Nothing alike"]
REFERENCES = ["The cat sat on a mat today .", "He said hello .", "Something else entirely"]


def test_corpus_scores_are_sacrebleus_own() -> None:
    result = corpus_quality(HYPOTHESES, REFERENCES)
    assert result.bleu.value == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert result.chrf.value == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert result.n == 3
    for score in (result.bleu, result.chrf):
        assert f"version:{sacrebleu.__version__}" in score.signature
    assert "tok:char" in corpus_quality(HYPOTHESES, REFERENCES, tokenize="char").bleu.signature


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_sentence_scores(metric: str) -> None:
    scores = sentence_quality(HYPOTHESES, REFERENCES, metric=metric)
    function = getattr(sacrebleu, f"sentence_{metric}")
    expected = [function(h, [r]).score for h, r in zip(HYPOTHESES, REFERENCES, strict=True)]
    assert scores.tolist() == pytest.approx(expected)
    assert scores[1] == scores.max() == pytest.approx(100.0)
    assert scores.max() <= 100.0


def test_short_sentences_have_a_bleu() -> None:
    assert sentence_quality(["Hello ."], ["Hello ."], metric="bleu")[0] == pytest.approx(100.0)


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="1 hypotheses and 2 references"):
        corpus_quality(["a"], ["a", "b"])
    with pytest.raises(InputError, match="at least one hypothesis"):
        sentence_quality([], [])
    with pytest.raises(InputError, match="unknown metric 'gleu'; there are bleu, chrf, ter, wer"):
        sentence_quality(["a"], ["a"], metric="gleu")
    with pytest.raises(InputError, match=r"1 references are empty .the first is number 1.*TER"):
        sentence_quality(["a", "b"], ["a", " "], metric="ter")
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(InputError, match="pip install"):
        corpus_quality(["a"], ["a"])
