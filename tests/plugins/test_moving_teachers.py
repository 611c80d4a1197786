"""``--moving-teacher`` in real trainings: what teaches, resuming, processes, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.plugins.corpus import Corpus, logged, run, training_arguments
from tests.plugins.jobs import Outcome, run_job

AVERAGE = (
    "--criterion", "mean_kl", "--mix-weight", "0.5", "--moving-teacher", "average",
    "--average-decay", "0.8", "--ensemble-paths", "", "--source-dropout", "0.3",
    "--source-replacement", "0.1", "--teacher-source", "weak", "--weak-noise", "0.2",
)  # fmt: skip
POSTERIOR = (
    "--criterion", "expectations", "--expectations-rank", "8", "--student-init", "1",
    "--moving-teacher", "posterior", "--posterior-data-size", "200", "--posterior-rate", "1e-3",
    "--posterior-window", "3", "--posterior-thinning", "2",
)  # fmt: skip


def training(corpus: Corpus, folder: Path, *options: object, world: int = 1) -> list[Outcome]:
    return run_job(training_arguments(corpus, folder, *options), world, folder / "logs")


def trained(corpus: Corpus, folder: Path, *options: object, world: int = 1) -> list[dict[str, Any]]:
    outcomes = training(corpus, folder, *options, world=world)
    assert [one.code for one in outcomes] == [0] * world, outcomes[0].output
    return logged(outcomes[0].output, "train_inner")


def state_of(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / "checkpoint_last.pt", weights_only=False)
    return state["task_state"]["moving_teacher"] | {"weights": state["model"]}


def tensors(state: Any) -> list[torch.Tensor]:
    if isinstance(state, dict):
        return [one for key in sorted(state, key=str) for one in tensors(state[key])]
    if isinstance(state, list):
        return [one for entry in state for one in tensors(entry)]
    return [state] if isinstance(state, torch.Tensor) else []


@pytest.mark.parametrize("options", [AVERAGE, POSTERIOR], ids=["average", "posterior"])
def test_a_resumed_training_has_the_teacher_of_one_that_was_not_interrupted(
    corpus: Corpus, tmp_path: Path, options: tuple[str, ...]
) -> None:
    given = [*options, "--disable-validation", "--max-update"]
    if "average" in options:
        given = ["--student-init", corpus.teachers[0], *given]
    else:
        given = ["--ensemble-paths", corpus.teachers[0], *given]
    whole = trained(corpus, tmp_path / "whole", *given, 7)
    trained(corpus, tmp_path / "part", *given, 5)
    rest = trained(corpus, tmp_path / "part", *given, 7)
    assert [one["loss"] for one in rest] == [one["loss"] for one in whole[5:]]
    states = [state_of(tmp_path / name) for name in ("whole", "part")]
    assert len(tensors(states[0])) > 20
    for one, other in zip(*map(tensors, states), strict=True):
        assert torch.equal(one, other)


def test_the_average_is_of_the_students_path(corpus: Corpus, tmp_path: Path) -> None:
    given = ["--student-init", corpus.teachers[0], *AVERAGE, "--save-interval-updates", "1"]
    records = trained(corpus, tmp_path, *given, "--disable-validation", "--max-update", 3)
    assert all(record["loss"] > 0 for record in records)
    path = [torch.load(corpus.teachers[0], weights_only=False)["model"]]
    path += [
        torch.load(tmp_path / f"checkpoint_1_{update}.pt", weights_only=False)["model"]
        for update in (1, 2, 3)
    ]
    found = state_of(tmp_path)["motion"]["model"]
    for name in ("encoder.layers.0.fc1.weight", "decoder.embed_tokens.weight"):
        first, *others = (weights[name] for weights in path)
        expected = 0.8**3 * first + 0.2 * (0.64 * others[0] + 0.8 * others[1] + others[2])
        torch.testing.assert_close(found[name], expected, msg=name)


def test_the_student_learns_what_the_samples_disagree_about(corpus: Corpus, tmp_path: Path) -> None:
    given = ["--ensemble-paths", corpus.teachers[0], *POSTERIOR, "--max-update", 12]
    records = trained(corpus, tmp_path, *given)
    disagreement = [record["ensemble_mi"] for record in records]
    assert disagreement[0] == pytest.approx(0.0, abs=1e-4)  # one model, as yet
    assert disagreement[-1] > 1e-4
    assert len(state_of(tmp_path)["motion"]["samples"]) == 3
    # It decodes as any student of expectations, and the chain takes no part in that.
    decoded = run(
        "seqdistill-fairseq-generate", corpus.data, "--path", tmp_path / "checkpoint_last.pt",
        "--cpu", "--beam", 2, "--uncertainty-output", tmp_path / "out.jsonl",
    )  # fmt: skip
    assert decoded.returncode == 0, decoded.stderr
    assert "mutual_information" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    validated = run(
        "seqdistill-fairseq-validate", corpus.data, "--path", tmp_path / "checkpoint_last.pt",
        "--cpu", "--task", "ensemble_teacher_translation", "--batch-size", 8,
    )  # fmt: skip
    assert validated.returncode == 0, validated.stdout + validated.stderr


def test_one_sample_at_a_time_teaches_the_expected_entropy(corpus: Corpus, tmp_path: Path) -> None:
    given = ["--ensemble-paths", corpus.teachers[0], *POSTERIOR, "--posterior-window", 1]
    given += [
        "--expectations",
        "data_uncertainty",
        "--posterior-cycle",
        4,
        "--posterior-thinning",
        1,
    ]
    records = trained(corpus, tmp_path, *given, "--disable-validation", "--max-update", 9)
    assert [record["ensemble_mi"] for record in records] == pytest.approx([0.0] * 9, abs=1e-4)
    motion = state_of(tmp_path)["motion"]
    (sample,) = motion["samples"]
    name = "encoder.layers.0.fc1.weight"
    start = torch.load(corpus.teachers[0], weights_only=False)["model"][name]
    assert not torch.equal(sample[name], start)
    assert not torch.equal(sample[name], motion["model"][name])  # the end of the second cycle
    eight = ["--ensemble-paths", corpus.teachers[0], *given[2:], "--disable-validation"]
    trained(corpus, tmp_path / "eight", *eight, "--max-update", 8)
    assert torch.equal(sample[name], state_of(tmp_path / "eight")["motion"]["model"][name])


def test_processes_sample_one_chain(corpus: Corpus, tmp_path: Path) -> None:
    given = ["--ensemble-paths", corpus.teachers[0], *POSTERIOR, "--disable-validation"]
    given += ["--max-update", 4]
    one = trained(corpus, tmp_path / "one", *given, "--update-freq", 2)
    two = trained(corpus, tmp_path / "two", *given, world=2)
    expected = [record["loss"] for record in one]
    assert [record["loss"] for record in two] == pytest.approx(expected, rel=2e-3)
    chains = [state_of(tmp_path / name)["motion"]["model"] for name in ("one", "two")]
    for name, weight in chains[0].items():
        torch.testing.assert_close(chains[1][name], weight, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--average-decay", "0.9"), "is of --moving-teacher average"),
        (("--moving-teacher", "posterior"), "names 2"),
        (("--moving-teacher", "average"), "leave that away"),
        (
            ("--moving-teacher", "average", "--ensemble-paths", "", "--average-decay", "1"),
            "decay in [0, 1)",
        ),
        (
            ("--moving-teacher", "posterior", "--teacher-placement", "offload"),
            "leave --teacher-placement away",
        ),
        (
            ("--moving-teacher", "average", "--ensemble-paths", "", "--criterion", "end2"),
            "does not disagree with itself",
        ),
        (
            ("--moving-teacher", "average", "--ensemble-paths", "", "--criterion", "expectations"),
            "learns about members",
        ),
        (
            ("--moving-teacher", "posterior", "--criterion", "expectations"),
            "data_uncertainty alone",
        ),
        (
            ("--moving-teacher", "average", "--criterion", "cross_entropy"),
            "needs a criterion that distils",
        ),
    ],
)
def test_what_does_not_go_together(
    corpus: Corpus, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    given = ["--criterion", "mean_kl", *options, "--max-update", 1]
    (outcome,) = training(corpus, tmp_path, *given)
    assert outcome.code != 0
    assert message in outcome.output


def test_another_training_cannot_be_gone_on_from(corpus: Corpus, tmp_path: Path) -> None:
    given = ["--criterion", "mean_kl", "--disable-validation"]
    trained(corpus, tmp_path, *given, "--max-update", 1)
    moving = ["--moving-teacher", "average", "--ensemble-paths", ""]
    (outcome,) = training(corpus, tmp_path, *given, *moving, "--max-update", 2)
    assert outcome.code != 0
    assert "a training without --moving-teacher" in outcome.output
    again = trained(corpus, tmp_path, *given, *moving, "--max-update", 2, "--reset-optimizer")
    assert again
