"""The game in fairseq: trained online and from a store, resumed, decoded by the real programs."""

from pathlib import Path

import pytest
import torch

from tests.plugins.corpus import TRAINING, Corpus, logged, run, train

OPTIONS = ["--criterion", "kdgan", "--kdgan-rank", 8, "--student-init", 1]


@pytest.fixture(scope="module")
def store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    for subset in ("train", "valid"):
        result = run(
            "seqdistill", "cache-targets", corpus.data, "--subset", subset, "--ensemble-paths",
            corpus.ensemble_paths, "--output", folder / subset, "--top-k", 24,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    return f"{folder / 'train'}:{folder / 'valid'}"


def test_training_online_plays_and_decodes(corpus: Corpus, tmp_path: Path) -> None:
    result = train(corpus, tmp_path, *OPTIONS, "--max-epoch", 6, "--mix-weight", 0.1)
    assert result.returncode == 0, result.stdout + result.stderr
    records = logged(result.stdout + result.stderr, "train_inner")
    assert records[-1]["kdgan_student_kl"] < records[0]["kdgan_student_kl"] / 2
    # The teacher begins as the ensemble, which is what the student is measured against.
    assert all(0 <= record["kdgan_told_apart"] <= 1 for record in records)
    assert records[0]["kdgan_told_apart"] == pytest.approx(0.5, abs=0.25)
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    assert {"discriminator.score.weight", "teacher.up.weight"} <= state["criterion"].keys()
    assert bool(state["criterion"]["teacher.up.weight"].any()), "the teacher has not learnt"
    assert not any("discriminator" in name for name in state["model"])
    result = run(
        "seqdistill-fairseq-generate", corpus.data, "--path", tmp_path / "checkpoint_last.pt",
        "--cpu", "--beam", 2,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sum(line.startswith("H-") for line in result.stdout.splitlines()) == 8
    result = run(
        "seqdistill-fairseq-validate", corpus.data, "--path", tmp_path / "checkpoint_last.pt",
        "--cpu", "--batch-size", 4,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_training_from_a_store_goes_on_as_if_it_had_not_been_interrupted(
    corpus: Corpus, tmp_path: Path, store: str
) -> None:
    options = [*OPTIONS[:-2], "--target-store", store, "--ensemble-paths", ""]
    whole = train(corpus, tmp_path / "whole", *options, "--max-update", 12)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    for updates in (6, 12):
        part = train(corpus, tmp_path / "parts", *options, "--max-update", updates)
        assert part.returncode == 0, part.stdout + part.stderr
    first, second = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False)
        for name in ("whole", "parts")
    )
    for part in ("model", "criterion"):
        for name, weight in first[part].items():
            torch.testing.assert_close(weight, second[part][name], msg=name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--no-fused-loss"], "criterion kdgan has one form"),
        (["--kdgan-temperature", 0], "a Concrete temperature above 0"),
        (["--kdgan-rank", 0], "--kdgan-rank: expected 1 or more"),
        (["--predictive", "mean"], "kdgan trains a softmax"),
    ],
)
def test_what_cannot_be_is_refused(
    corpus: Corpus, tmp_path: Path, options: list[object], said: str
) -> None:
    result = train(corpus, tmp_path, "--criterion", "kdgan", "--max-update", 1, *options)
    assert result.returncode != 0
    assert said in result.stdout + result.stderr


def test_a_student_without_features_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    result = run(
        "seqdistill-fairseq-train", corpus.data, *TRAINING, "--arch", "lstm", "--criterion",
        "kdgan", "--ensemble-paths", corpus.ensemble_paths, "--save-dir", tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert "does not give its features" in result.stderr
