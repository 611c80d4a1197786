"""Students trained by the real fairseq-train with the plug-in."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from fairseq_plugins.tasks.ensemble_teacher_translation import (
    EnsembleTeacherTranslationConfig,
    EnsembleTeacherTranslationTask,
)
from seqdistill.hypotheses import read_hypotheses
from tests.plugins.corpus import PROGRAMS, Corpus, logged, run, train, training_arguments
from tests.plugins.tiny_models import tiny_settings


def weights(save_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(save_dir / "checkpoint_last.pt", weights_only=True)["model"]


def losses(output: str) -> list[float]:
    return [record["loss"] for record in logged(output, "train_inner")]


@pytest.mark.parametrize(
    ("criterion", "options", "kind"),
    [
        ("proxy_dirichlet", ["--concentration", "exact", "--normalisation", "total"], "dirichlet"),
        ("proxy_dirichlet", ["--direction", "forward", "--offset", "0"], "dirichlet"),
        (
            "end2",
            ["--teacher-temperature", "4", "--temperature-anneal-end", "6"],
            "dirichlet",
        ),
        ("mean_kl", ["--mix-weight", "0.3", "--label-smoothing", "0.1"], "softmax"),
    ],
    ids=["proxy-reverse", "proxy-forward", "end2", "mean_kl"],
)
def test_a_student_trains_and_logs_what_matters(
    corpus: Corpus, tmp_path: Path, criterion: str, options: list[str], kind: str
) -> None:
    options = [*options, "--criterion", criterion, "--max-update", "16", "--student-init", "1"]
    result = train(corpus, tmp_path, *options)
    assert result.returncode == 0, result.stderr
    curve = losses(result.stdout + result.stderr)
    assert len(curve) == 16
    if criterion != "end2":  # its temperature changes on the way
        assert sum(curve[-4:]) < sum(curve[:4])
    (last, *_) = logged(result.stdout + result.stderr, "valid")[-1:]
    names = ["loss", "nll_loss", "accuracy", "ensemble_mi", "ensemble_rmi", "ensemble_epkl"]
    names += ["spearman_tu_predictive"]
    if kind == "dirichlet":
        names += ["student_precision_median", "student_precision_p05", "spearman_rmi"]
    for name in names:
        assert math.isfinite(last[f"valid_{name}"]), name
    assert last["valid_ensemble_epkl"] == pytest.approx(
        last["valid_ensemble_mi"] + last["valid_ensemble_rmi"], abs=2e-4
    )


def test_head_travels_in_the_checkpoint_and_decoding_needs_no_flag(
    corpus: Corpus, tmp_path: Path
) -> None:
    result = train(
        corpus, tmp_path, "--criterion", "proxy_dirichlet", "--max-update", 2,
        "--predictive", "mean", "--uncertainty-measures", "epkl,total_uncertainty",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    checkpoint = tmp_path / "checkpoint_last.pt"
    output = tmp_path / "test.jsonl"
    common = [corpus.data, "--path", checkpoint, "--batch-size", 3, "--cpu", "--quiet"]
    result = run("seqdistill-fairseq-generate", *common, "--uncertainty-output", output)
    assert result.returncode == 0, result.stderr
    hypotheses = list(read_hypotheses(output))
    assert {h.id for h in hypotheses} == set(range(8))
    assert {h.model.predictive for h in hypotheses} == {"mean"}
    assert {h.model.offset for h in hypotheses} == {1.0}
    assert set(hypotheses[0].uncertainty) == {"epkl", "total_uncertainty"}
    # Giving the option again overrides the checkpoint, and changes the likelihood.
    other = tmp_path / "base.jsonl"
    result = run(
        "seqdistill-fairseq-generate", *common, "--uncertainty-output", other,
        "--predictive", "base", "--score-reference",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert {h.model.predictive for h in read_hypotheses(other)} == {"base"}
    # fairseq-validate reads the head, the criterion and the teachers back as well.
    result = run(
        "seqdistill-fairseq-validate", corpus.data, "--path", checkpoint, "--batch-size", 4,
        "--cpu", "--valid-subset", "valid",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "spearman_rmi" in result.stdout + result.stderr


def test_update_freq_and_processes_follow_the_same_curve(corpus: Corpus, tmp_path: Path) -> None:
    """Batches 2 × 4 in one step, on 2 processes of either DDP backend: the same training."""
    options = ["--criterion", "proxy_dirichlet", "--max-update", "4", "--mix-weight", "0.2"]
    single = train(corpus, tmp_path / "single", *options, "--update-freq", 2)
    assert single.returncode == 0, single.stderr
    expected = losses(single.stdout + single.stderr)
    assert len(expected) == 4
    for port, backend in ((29511, "pytorch_ddp"), (29512, "legacy_ddp")):
        save_dir = tmp_path / backend
        arguments = training_arguments(
            corpus, save_dir, *options, "--ddp-backend", backend, "--distributed-world-size", 2,
            "--distributed-no-spawn", "--distributed-backend", "gloo",
            "--distributed-init-method", f"tcp://127.0.0.1:{port}",
        )  # fmt: skip
        ranks = [
            subprocess.Popen(
                [str(PROGRAMS / "fairseq-train"), *arguments, "--distributed-rank", str(rank)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], outputs
        assert losses(outputs[0]) == pytest.approx(expected, rel=1e-3), backend
        parallel, serial = weights(save_dir), weights(tmp_path / "single")
        for name, weight in serial.items():
            torch.testing.assert_close(parallel[name], weight, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(
    "options",
    [
        ["--criterion", "proxy_dirichlet"],
        ["--criterion", "proxy_dirichlet", "--mix-weight", "0.3", "--label-smoothing", "0.1"],
        ["--criterion", "end2", "--offset", "0", "--mix-weight", "0.1"],
    ],
    ids=["proxy", "proxy-mixed", "end2-mixed"],
)
def test_the_fused_loss_follows_the_plain_path(
    corpus: Corpus, tmp_path: Path, options: list[str]
) -> None:
    """50 updates of two batches each, dropout on: the same curve to rounding."""
    common = [*options, "--max-update", 50, "--update-freq", 2]
    curves = []
    for name, choice in (("fused", []), ("plain", ["--no-fused-loss"])):
        result = train(corpus, tmp_path / name, *common, *choice)
        assert result.returncode == 0, result.stderr
        records = logged(result.stdout + result.stderr, "train_inner")
        assert len(records) == 50
        curves.append(records)
    fused, plain = curves
    names = fused[0].keys() & {
        "loss", "nll_loss", "accuracy", "ensemble_tu", "ensemble_rmi", "student_precision_median"
    }  # fmt: skip
    assert len(names) == 6
    for name in names:
        expected = [record[name] for record in plain]
        assert [r[name] for r in fused] == pytest.approx(expected, rel=2e-3, abs=2e-3), name
    assert losses_differ_from_start(plain), "the curve must move for the comparison to mean much"
    first, second = weights(tmp_path / "fused"), weights(tmp_path / "plain")
    for name, weight in second.items():
        # A key's bias adds the same to all of a query's scores: its gradient is 0 but for rounding,
        # and Adam makes full steps of that.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(first[name], weight, rtol=5e-3, atol=2e-3, msg=name)


def losses_differ_from_start(records: list[dict[str, float]]) -> bool:
    return abs(records[-1]["loss"] - records[0]["loss"]) > 0.05 * abs(records[0]["loss"])


def test_student_init_starts_at_the_member(corpus: Corpus, tmp_path: Path) -> None:
    options = ["--criterion", "mean_kl", "--max-update", 1, "--lr", 1e-12]
    result = train(corpus, tmp_path, *options, "--student-init", 2)
    assert result.returncode == 0, result.stderr
    member = torch.load(corpus.teachers[1], weights_only=True)["model"]
    trained = weights(tmp_path)
    torch.testing.assert_close(
        trained["decoder.embed_tokens.weight"], member["decoder.embed_tokens.weight"]
    )


def test_hydra_train_takes_the_same_options(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "student.yaml").write_text(
        f"""# @package _group_
common: {{cpu: true, seed: 5, log_format: json, log_interval: 1}}
task:
  _name: ensemble_teacher_translation
  data: {corpus.data}
  source_lang: en
  target_lang: de
  ensemble_paths: "{corpus.ensemble_paths}"
criterion: {{_name: proxy_dirichlet, concentration: epkl, mix_weight: 0.1}}
dataset: {{batch_size: 4, num_workers: 0}}
optimization: {{max_update: 2, lr: [0.01]}}
optimizer: {{_name: adam}}
lr_scheduler: {{_name: fixed}}
checkpoint: {{save_dir: {tmp_path / "student"}}}
model:
  _name: transformer
  encoder: {{embed_dim: 16, ffn_embed_dim: 32, layers: 1, attention_heads: 2}}
  decoder: {{embed_dim: 16, ffn_embed_dim: 32, layers: 1, attention_heads: 2}}
hydra: {{run: {{dir: {tmp_path}}}}}
"""
    )
    result = run(
        "seqdistill-fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "student"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "student" / "checkpoint_last.pt").is_file()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["proxy_dirichlet", "end2", "mean_kl"])
def test_half_precision_students_and_teachers(
    corpus: Corpus, name: str, dtype: torch.dtype
) -> None:
    """What --bf16 and --fp16 make of a model; fairseq itself takes the flags on GPUs only."""
    dictionary = Dictionary.load(str(corpus.data / "dict.en.txt"))
    settings = EnsembleTeacherTranslationConfig(
        ensemble_paths=corpus.ensemble_paths, ensemble_dtype=str(dtype).removeprefix("torch.")
    )
    task = EnsembleTeacherTranslationTask(settings, dictionary, dictionary)
    model = task.build_model(tiny_settings()).to(dtype)
    config = CRITERION_DATACLASS_REGISTRY[name](_name=name, mix_weight=0.2, sentence_avg=False)
    criterion = task.build_criterion(OmegaConf.structured(config)).train()
    tokens = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 1]])
    net_input = {
        "src_tokens": tokens,
        "src_lengths": torch.tensor([4, 3]),
        "prev_output_tokens": tokens,
    }
    sample = {"id": torch.arange(2), "net_input": net_input, "target": tokens, "ntokens": 7}
    loss, sample_size, _ = criterion(model, sample)
    (loss * 128 / sample_size).backward()  # a loss scale, as fp16 trainings have
    assert loss.dtype == torch.float32
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_python_is_the_one_that_is_tested() -> None:
    assert (PROGRAMS / "seqdistill-fairseq-train").is_file(), sys.executable
