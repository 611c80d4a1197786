"""Students of speech trained by the real fairseq-train, from teachers of speech."""

import math
import re
import subprocess
from pathlib import Path

import pytest
import torch

from tests.plugins.corpus import PROGRAMS, logged, run
from tests.plugins.speech_corpus import (
    ARCHITECTURE,
    SIZES,
    TASK,
    SpeechCorpus,
    generate_speech,
    save_teacher,
    speech_training_arguments,
    train_speech,
)

PROXY = ["--criterion", "proxy_dirichlet", "--ctc-weight", "0.3"]


def losses(result: subprocess.CompletedProcess[str]) -> list[float]:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    records = logged(result.stdout + result.stderr, "train_inner")
    return [record["loss"] for record in records]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (PROXY, "dirichlet"),
        (["--criterion", "end2", "--ctc-weight", "0.5"], "dirichlet"),
        (["--criterion", "mean_kl", "--mix-weight", "0.2"], "softmax"),
        (["--criterion", "hydra", "--hydra-rank", "4", "--ctc-weight", "0.3"], "hydra"),
        (["--criterion", "expectations"], "expectations"),
    ],
    ids=["proxy", "end2", "mean_kl", "hydra", "expectations"],
)
def test_a_student_trains_and_logs_what_matters(
    speech: SpeechCorpus, tmp_path: Path, options: list[str], kind: str
) -> None:
    result = train_speech(speech, tmp_path, *options, "--max-update", 18)
    curve = losses(result)
    assert sum(curve[-6:]) < sum(curve[:6])
    (last,) = logged(result.stdout + result.stderr, "valid")[-1:]
    names = [
        "loss",
        "nll_loss",
        "accuracy",
        "ensemble_mi",
        "ensemble_epkl",
        "spearman_tu_predictive",
    ]
    if "--ctc-weight" in options:
        names.append("ctc_loss")
    if kind == "dirichlet":
        names.append("student_precision_median")
    for name in names:
        assert math.isfinite(last[f"valid_{name}"]), name
    output = tmp_path / "test.jsonl"
    decoded = generate_speech(speech, tmp_path / "checkpoint_last.pt", output)
    assert decoded.returncode == 0, decoded.stderr
    assert f'"kind": "{kind}"' in output.read_text()


def test_teachers_train_with_the_same_task(speech: SpeechCorpus, tmp_path: Path) -> None:
    """A plain criterion needs no teachers; what it trains is a teacher."""
    for seed in (1, 2):
        arguments = [
            str(speech.data), "--config-yaml", "config.yaml", "--task", TASK, *ARCHITECTURE,
            "--criterion", "label_smoothed_cross_entropy_with_ctc", "--label-smoothing", "0.1",
            "--ctc-weight", "0.3", "--optimizer", "adam", "--lr", "0.005", "--batch-size", "8",
            "--cpu", "--max-update", "3", "--seed", str(seed), "--no-epoch-checkpoints",
            "--num-workers", "0", "--save-dir", str(tmp_path / f"t{seed}"),
        ]  # fmt: skip
        result = run("seqdistill-fairseq-train", *arguments)
        assert result.returncode == 0, result.stderr
    paths = f"{tmp_path}/t*/checkpoint_last.pt"
    result = train_speech(
        speech, tmp_path / "student", *PROXY, "--ensemble-paths", paths, "--max-update", 2,
        "--student-init", 1,
    )  # fmt: skip
    assert len(losses(result)) == 2


def test_fused_and_plain_loss_follow_one_curve(speech: SpeechCorpus, tmp_path: Path) -> None:
    options = [*PROXY, "--max-update", 6, "--mix-weight", "0.2"]
    fused = losses(train_speech(speech, tmp_path / "fused", *options))
    plain = losses(train_speech(speech, tmp_path / "plain", *options, "--no-fused-loss"))
    assert fused == pytest.approx(plain, rel=2e-4)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    speech: SpeechCorpus, tmp_path: Path
) -> None:
    """The masks of SpecAugment included; they are in no checkpoint."""
    whole = train_speech(speech, tmp_path / "whole", *PROXY, "--max-update", 10)
    first = train_speech(
        speech, tmp_path / "parts", *PROXY, "--max-update", 4, "--save-interval-updates", 4
    )
    rest = train_speech(speech, tmp_path / "parts", *PROXY, "--max-update", 10)
    assert losses(first) + losses(rest) == pytest.approx(losses(whole), rel=1e-5)


def test_two_processes_follow_the_same_curve(speech: SpeechCorpus, tmp_path: Path) -> None:
    options = [*PROXY, "--max-update", "4"]
    expected = losses(train_speech(speech, tmp_path / "single", *options, "--update-freq", 2))
    arguments = speech_training_arguments(
        speech, tmp_path / "ddp", *options, "--ddp-backend", "pytorch_ddp",
        "--distributed-world-size", 2, "--distributed-no-spawn", "--distributed-backend", "gloo",
        "--distributed-init-method", "tcp://127.0.0.1:29533",
    )  # fmt: skip
    ranks = [
        subprocess.Popen(
            [str(PROGRAMS / "fairseq-train"), *arguments, "--distributed-rank", str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs[0][-3000:]
    curve = [record["loss"] for record in logged(outputs[0], "train_inner")]
    assert curve == pytest.approx(expected, rel=2e-4)


def test_teachers_may_be_of_half_precision(speech: SpeechCorpus, tmp_path: Path) -> None:
    """Features follow them into it; the loss stays what it was but for rounding."""
    options = [*PROXY, "--max-update", 2]
    full = losses(train_speech(speech, tmp_path / "full", *options))
    half = losses(train_speech(speech, tmp_path / "half", *options, "--ensemble-dtype", "bfloat16"))
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_teachers_may_read_clean_features(speech: SpeechCorpus, tmp_path: Path) -> None:
    options = [*PROXY, "--max-update", 3]
    augmented = losses(train_speech(speech, tmp_path / "a", *options))
    clean = losses(train_speech(speech, tmp_path / "c", *options, "--teacher-features", "clean"))
    assert clean != pytest.approx(augmented, rel=1e-4)


def test_conformers_distil(speech: SpeechCorpus, tmp_path: Path) -> None:
    """Members and student may be of different architectures."""
    conformer = ["--arch", "s2t_conformer", *SIZES, "--depthwise-conv-kernel-size", "7"]
    teacher = save_teacher(
        speech.data, 5, *conformer, "--criterion", "mean_kl", "--ctc-weight", "0.1",
        name="conformer-teacher.pt",
    )  # fmt: skip
    result = train_speech(
        speech, tmp_path, *conformer, *PROXY, "--max-update", 6, "--ensemble-paths",
        f"{speech.teachers[0]}:{teacher}",
    )  # fmt: skip
    assert all(map(math.isfinite, losses(result)))


def test_utterances_too_short_for_ctc_are_counted(speech: SpeechCorpus, tmp_path: Path) -> None:
    """Four frames of the encoder cannot be aligned with more pieces; the loss says how many."""
    options = [*PROXY, "--max-update", 2, "--conv-kernel-sizes", "5,5,5,5,5"]
    result = train_speech(speech, tmp_path, *options)
    assert all(map(math.isfinite, losses(result)))
    assert re.search(r'"valid_ctc_impossible": "[1-9]', result.stdout + result.stderr)


def failure(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    return result.stdout + result.stderr


def test_bad_teachers_and_options(speech: SpeechCorpus, tmp_path: Path) -> None:
    state = torch.load(speech.teachers[0], weights_only=False)
    weight = state["model"]["encoder.subsample.conv_layers.0.weight"]
    state["model"]["encoder.subsample.conv_layers.0.weight"] = weight[:, :40]
    torch.save(state, tmp_path / "narrow.pt")
    paths = f"{speech.teachers[0]}:{tmp_path / 'narrow.pt'}"
    result = train_speech(speech, tmp_path / "s", *PROXY, "--ensemble-paths", paths)
    assert "narrow.pt: it reads 40 features a frame, the data have 80" in failure(result)

    state = torch.load(speech.teachers[0], weights_only=False)
    for key in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        state["model"][key] = state["model"][key][:-1]
    torch.save(state, tmp_path / "fewer.pt")
    paths = f"{speech.teachers[0]}:{tmp_path / 'fewer.pt'}"
    result = train_speech(speech, tmp_path / "s", *PROXY, "--ensemble-paths", paths)
    assert re.search(
        r"fewer\.pt: its decoder has 9 vocabulary entries.*--piece-model", failure(result)
    )

    result = train_speech(speech, tmp_path / "s", "--criterion", "mean_kl", "--ctc-weight", "-1")
    assert "--ctc-weight: expected 0 or more, got -1" in failure(result)

    result = train_speech(speech, tmp_path / "s", *PROXY, "--arch", "convtransformer")
    assert "whose encoder has no CTC projection; leave --ctc-weight away" in failure(result)


def test_ctc_is_the_students_own_affair(speech: SpeechCorpus, tmp_path: Path) -> None:
    """A student without CTC starts from a teacher with it, and one with CTC from one without."""
    plain = save_teacher(speech.data, 6, *ARCHITECTURE, name="plain-teacher.pt")
    for name, options, init in (
        ("without", ["--criterion", "mean_kl"], speech.teachers[0]),
        ("with", PROXY, plain),
    ):
        # A step of 0: what is saved is what the student started with.
        result = train_speech(
            speech, tmp_path / name, *options, "--student-init", init, "--max-update", 1,
            "--lr", "0",
        )  # fmt: skip
        assert len(losses(result)) == 1
        student = torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"]
        teacher = torch.load(init, weights_only=False)["model"]
        assert ("encoder.ctc_proj.weight" in student) == (name == "with")
        for key in set(student) & set(teacher):
            torch.testing.assert_close(student[key], teacher[key], rtol=0, atol=0)
    result = train_speech(
        speech, tmp_path / "other", *PROXY, "--student-init", plain, "--encoder-layers", 2
    )
    assert "its weights do not fit the student's architecture" in failure(result)
