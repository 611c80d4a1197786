"""fairseq drops the last batch whose size is no multiple of 8; of 300 test lines it decoded 296."""

from pathlib import Path

from seqdistill.hypotheses import read_hypotheses
from tests.plugins.corpus import Corpus, make_corpus, run


def test_every_test_sentence_is_decoded(tmp_path: Path) -> None:
    corpus: Corpus = make_corpus(tmp_path / "corpus", test_sentences=11)
    output = tmp_path / "test.jsonl"
    result = run(
        "seqdistill-fairseq-generate", corpus.data, "--path", corpus.ensemble_paths,
        "--max-tokens", 1000, "--cpu", "--quiet", "--beam", 2, "--uncertainty-output", output,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(h.id for h in read_hypotheses(output)) == list(range(11))
