"""Calibration end to end: fitted by the verb, then searched and scored with, outputs unchanged."""

from pathlib import Path

import pytest

from seqdistill.cli.main import main
from seqdistill.hypotheses import Hypothesis, read_hypotheses
from seqdistill.uncertainty.calibrator_files import read_calibrator
from seqdistill.uncertainty.measures import measures_of
from tests.plugins.corpus import Corpus, run

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore::UserWarning:hydra"),
]

FIT = ["--updates", "3", "--batch-size", "8", "--hidden", "4", "--cpu"]


def fit(corpus: Corpus, output: Path, *options: object) -> int:
    path = corpus.teachers[0]
    given = ["calibrate", corpus.data, "--path", path, "--output", output, *FIT, *options]
    return main([str(one) for one in given])


@pytest.fixture(scope="module")
def calibrator(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "teacher.calibrator"
    assert fit(corpus, path) == 0
    return path


def found(corpus: Corpus, folder: Path, name: str, verb: str, *options: object) -> list[Hypothesis]:
    output = folder / f"{name}.jsonl"
    given = [verb, "--path", corpus.teachers[0], "--data", corpus.data, "-s", "en", "-t", "de"]
    given += ["--cpu", "--output", output, *options]
    assert main([str(one) for one in given]) == 0
    return list(read_hypotheses(output))


def test_search_and_scoring(
    corpus: Corpus, calibrator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = corpus.data.parent / "test.en"
    lines = tmp_path / "lines.en"
    lines.write_text(sources.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, lines.open(encoding="utf-8") as handle:
        patch.setattr("sys.stdin", handle)
        plain = found(corpus, tmp_path, "plain", "translate", "--beam", 3, "--nbest", 2)
        handle.seek(0)
        options = ["--beam", 3, "--nbest", 2, "--calibration", calibrator]
        calibrated = found(corpus, tmp_path, "calibrated", "translate", *options)
    assert len(plain) == len(calibrated) > 0
    for one, other in zip(calibrated, plain, strict=True):
        # Bit for bit: texts, pieces, order and scores.
        assert (one.id, one.rank, one.text, one.tokens) == (
            other.id, other.rank, other.text, other.tokens,
        )  # fmt: skip
        assert one.score == other.score
        assert one.model.kind == one.model.predictive == "calibrated"
        assert set(one.uncertainty) == set(measures_of("calibrated"))
        base = one.uncertainty["joint_total_uncertainty_base"]
        assert base == pytest.approx(other.uncertainty["joint_total_uncertainty_pe"], rel=1e-5)
        assert one.log_prob != other.log_prob
        mean = -one.log_prob / len(one.tokens)
        assert mean == pytest.approx(one.uncertainty["joint_total_uncertainty_pe"], rel=1e-5)

    # Scoring what was found gives what the search has said of it.
    options = ["--hypotheses", tmp_path / "calibrated.jsonl", "--calibration", calibrator]
    options += ["--temperatures", "0.8,1,1.3"]
    scored = found(corpus, tmp_path, "scored", "score", *options)
    for one, other in zip(scored, calibrated, strict=True):
        assert one.tokens == other.tokens
        assert one.uncertainty == pytest.approx(other.uncertainty, rel=2e-3, abs=2e-4)
        assert one.token_log_probs == pytest.approx(other.token_log_probs, rel=2e-3, abs=2e-4)
        assert one.token_confidence is not None
        assert max(one.token_confidence) <= 1.0
        assert one.tempered is not None
        # What is tempered is what is reported: at 1 nothing is left to normalise.
        assert one.tempered.token_log_partitions[1] == pytest.approx(
            [0.0] * len(one.tokens), abs=1e-3
        )
    capsys.readouterr()


def test_fairseqs_program_takes_the_file(corpus: Corpus, calibrator: Path, tmp_path: Path) -> None:
    output = tmp_path / "forced.jsonl"
    result = run(
        "seqdistill-fairseq-generate", corpus.data, "--path", corpus.teachers[0], "--gen-subset",
        "test", "--score-reference", "--calibration", calibrator, "--uncertainty-output", output,
        "--quiet", "--cpu",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert {one.model.kind for one in read_hypotheses(output)} == {"calibrated"}
    assert main(["calibration", str(output), "--bootstrap", "0"]) == 0


def test_the_verb_prints_what_it_is_worth(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "again"
    assert fit(corpus, path, "--seed", 5, "--simplex-weight", 0) == 0
    table = capsys.readouterr().out
    for name in ("uncalibrated", "temperature", "calibrated"):
        assert name in table
    made = read_calibrator(path)
    assert made.settings["fit"]["seed"] == 5
    assert set(made.results) == {"uncalibrated", "temperature", "calibrated"}
    assert fit(corpus, path) == 1
    assert "pass --overwrite" in capsys.readouterr().err


def test_what_is_refused(
    corpus: Corpus, calibrator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(verb: str, path: object, *options: object) -> str:
        given = [verb, "--path", path, "--data", corpus.data, "-s", "en", "-t", "de", "--cpu"]
        text = corpus.data.parent / "test.en"
        given += ["--source", text, "--translations", text, *options]
        assert main([str(one) for one in given]) == 1
        return capsys.readouterr().err

    use = ["--calibration", calibrator]
    assert "whose weights are not those" in refused("score", corpus.teachers[1], *use)
    assert "is of one model, and 2 decode" in refused("score", corpus.ensemble_paths, *use)
    assert "no such file" in refused("score", corpus.teachers[0], "--calibration", "none")
    assert fit(corpus, tmp_path / "c", "--predictive", "mean") == 1
    assert "leave it away" in capsys.readouterr().err
    assert fit(corpus, tmp_path / "c", "--gen-subset", "nowhere") == 1
    assert "nowhere" in capsys.readouterr().err
    assert fit(corpus, tmp_path / "c", "--lr", "-1") == 2
    assert "expected a rate above 0" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
