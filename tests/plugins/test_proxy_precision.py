"""Dirichlet students with a precision of their own in fairseq: trained, decoded, scored."""

from pathlib import Path

import pytest
import torch

from seqdistill.hypotheses import read_hypotheses
from tests.plugins.corpus import Corpus, logged, run, training_arguments
from tests.plugins.jobs import run_job
from tests.plugins.test_target_store_training import cache, vocabulary_size

RANK = ["--precision-rank", 8]
SAME = ["--student-init", 1, "--max-update", 12, "--dropout", 0]


def train(
    corpus: Corpus, save_dir: Path, criterion: str, *options: object
) -> tuple[Path, list[float], str]:
    """Train by the real program; return the checkpoint, the losses, and all that it said."""
    arguments = training_arguments(corpus, save_dir, "--criterion", criterion, *SAME, *options)
    (outcome,) = run_job(arguments, 1, save_dir / "logs")
    assert outcome.code == 0, outcome.output
    curve = [float(record["loss"]) for record in logged(outcome.output, "train_inner")]
    return save_dir / "checkpoint_last.pt", curve, outcome.output


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list, str]:
    folder = tmp_path_factory.mktemp("precision")
    return train(corpus, folder, "proxy_precision", *RANK)


def test_it_begins_as_proxy_dirichlet_and_learns_a_shift(
    corpus: Corpus, trained: tuple[Path, list, str], tmp_path: Path
) -> None:
    checkpoint, curve, said = trained
    _, plain, _ = train(corpus, tmp_path / "plain", "proxy_dirichlet")
    assert curve[0] == pytest.approx(plain[0], rel=1e-6)
    assert curve[-1] != pytest.approx(plain[-1], rel=1e-6)
    assert sum(curve[-3:]) < sum(curve[:3])
    (last, *_) = logged(said, "valid")[-1:]
    assert float(last["valid_spearman_mi"]) != 0
    assert float(last["valid_student_precision_median"]) > 0
    state = torch.load(checkpoint, weights_only=False)
    head = state["task_state"]["student_head"]
    assert (head["kind"], head["settings"]) == ("dirichlet_precision", {"rank": 8})
    assert state["model"]["decoder.student_outputs.last.weight"].count_nonzero() > 0


def test_fused_and_plain_losses_are_the_same(
    corpus: Corpus, trained: tuple[Path, list, str], tmp_path: Path
) -> None:
    _, curve, _ = trained
    _, plain, _ = train(corpus, tmp_path, "proxy_precision", *RANK, "--no-fused-loss")
    assert plain == pytest.approx(curve, rel=2e-3)


def test_stored_targets_give_the_same_training(
    corpus: Corpus, trained: tuple[Path, list, str], tmp_path: Path
) -> None:
    everything = ["--store-dtype", "float32", "--top-k", vocabulary_size(corpus)]
    stores = [
        cache(corpus, tmp_path / name, "--subset", name, *everything) for name in ("train", "valid")
    ]
    _, curve, _ = train(
        corpus, tmp_path / "student", "proxy_precision", *RANK, "--student-init",
        corpus.teachers[0], "--target-store", ":".join(stores), "--ensemble-paths", "",
    )  # fmt: skip
    assert curve == pytest.approx(trained[1], rel=2e-3)


@pytest.mark.parametrize("predictive", ["base", "mean"])
def test_it_is_decoded_and_scored_as_a_dirichlet_student(
    predictive: str, corpus: Corpus, trained: tuple[Path, list, str], tmp_path: Path
) -> None:
    found = {}
    for name, options in {"search": ("--beam", 2), "scored": ("--score-reference",)}.items():
        output = tmp_path / f"{name}.jsonl"
        result = run(
            "seqdistill-fairseq-generate", corpus.data, "--path", trained[0], "--gen-subset",
            "valid", "--cpu", "--quiet", "--predictive", predictive, "--uncertainty-measures",
            "all", "--uncertainty-output", output, *options,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        found[name] = list(read_hypotheses(output))
        for one in found[name]:
            assert one.model.kind == "dirichlet"
            assert one.model.predictive == predictive
            u = one.uncertainty
            total = u["data_uncertainty"] + u["mutual_information"]
            assert u["total_uncertainty"] == pytest.approx(total, abs=1e-4)
            assert u["inverse_precision"] > 0
    assert len(found["search"]) == len(found["scored"])
