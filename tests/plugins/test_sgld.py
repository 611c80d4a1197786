"""SGLD in fairseq's real training: its samples, its resuming, what it refuses."""

import re
from pathlib import Path

import pytest
import torch

from tests.plugins.corpus import USER_DIR, Corpus, logged, train, training_arguments
from tests.plugins.jobs import run_job

SGLD = (
    "--optimizer", "sgld", "--sgld-data-size", "200", "--lr-scheduler", "cyclical",
    "--cycle-updates", "3", "--exploration", "0.4", "--save-interval-updates", "3",
    "--criterion", "label_smoothed_cross_entropy", "--ensemble-paths", "", "--lr", "0.02",
    "--disable-validation",
)  # fmt: skip


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=False)
    assert state["optimizer_history"][-1]["optimizer_name"] == "FairseqSgld"
    return state["model"]


def test_a_resumed_training_has_the_samples_of_one_that_was_not_interrupted(
    corpus: Corpus, tmp_path: Path
) -> None:
    whole = train(corpus, tmp_path / "whole", *SGLD, "--max-update", "6")
    assert whole.returncode == 0, whole.stderr
    for updates in (4, 6):  # ends in the middle of the second cycle, and goes on
        part = train(corpus, tmp_path / "part", *SGLD, "--max-update", updates)
        assert part.returncode == 0, part.stderr
    names = sorted(path.name for path in (tmp_path / "whole").glob("checkpoint_*_*.pt"))
    assert names == ["checkpoint_1_3.pt", "checkpoint_1_6.pt"]
    samples = [weights_of(tmp_path / "whole" / name) for name in names]
    for name, sample in zip(names, samples, strict=True):
        for key, weight in weights_of(tmp_path / "part" / name).items():
            assert torch.equal(weight, sample[key]), f"{name}: {key}"
    name = "encoder.layers.0.fc1.weight"
    assert not torch.equal(samples[0][name], samples[1][name])
    rates = [record["lr"] for record in logged(whole.stderr + whole.stdout, "train_inner")]
    # 0.01·(cos(π·r) + 1) of the next update, r = 1/3, 2/3, 0.
    assert rates == pytest.approx([0.015, 0.005, 0.02] * 2, rel=1e-3)
    assert "cycle 2 has ended: a sample at update 6" in whole.stderr + whole.stdout
    quiet = train(corpus, tmp_path / "cold", *SGLD, "--max-update", "3", "--sgld-temperature", "0")
    assert quiet.returncode == 0, quiet.stderr
    cold = weights_of(tmp_path / "cold" / names[0])
    assert not torch.equal(cold[name], samples[0][name])


def test_processes_have_the_same_noise(corpus: Corpus, tmp_path: Path) -> None:
    weights = []
    for world in (1, 2):
        save_dir = tmp_path / f"world{world}"
        arguments = training_arguments(corpus, save_dir, *SGLD, "--max-update", 4)
        arguments = [a for a in arguments if a not in ("--user-dir", str(USER_DIR))]
        outcomes = run_job(
            [*arguments, "--update-freq", str(2 // world)], world, tmp_path / f"logs{world}"
        )
        assert [one.code for one in outcomes] == [0] * world, outcomes[0].output
        weights.append(weights_of(save_dir / "checkpoint_last.pt"))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-3, msg=name)


def test_a_sample_at_the_end_of_an_epoch_is_not_lost_silently(
    corpus: Corpus, tmp_path: Path
) -> None:
    options = ("--cycle-updates", "1", "--save-interval-updates", "1", "--max-update", "9")
    result = train(corpus, tmp_path, *SGLD, *options)
    assert result.returncode == 0, result.stderr
    said = re.findall(
        r"the sample of update (\d) fell on the end of epoch 1, and --no-epoch-checkpoints does",
        result.stderr + result.stdout,
    )
    saved = {int(path.stem.split("_")[2]) for path in tmp_path.glob("checkpoint_*_*.pt")}
    assert len(said) == 1
    assert saved == set(range(1, 10)) - {int(said[0])}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--save-interval-updates", "2"), "give --save-interval-updates 3"),
        (("--sgld-data-size", "0"), "--optimizer sgld needs --sgld-data-size"),
        (("--cycle-updates", "0"), "needs --cycle-updates, at least 1"),
        (("--zero-sharding", "os"), "all processes must have all parameters"),
    ],
)
def test_what_is_refused(
    corpus: Corpus, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = train(corpus, tmp_path, *SGLD, "--max-update", "3", *options)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
    assert not list(tmp_path.glob("*.pt"))
