"""Teachers that do not fit are refused before a training starts."""

from pathlib import Path

import pytest

from fairseq_plugins.fit import LIMIT_VARIABLE, device_limit
from seqdistill.errors import InputError
from tests.plugins.corpus import ARCHITECTURE, TRAINING, Corpus, run


def train(corpus: Corpus, *options: object, **environment: str) -> tuple[int, str]:
    done = run(
        "seqdistill-fairseq-train", corpus.data, *ARCHITECTURE, *TRAINING,
        "--ensemble-paths", corpus.ensemble_paths, "--criterion", "proxy_dirichlet",
        "--max-update", "1", "--no-save", "--save-dir", corpus.data / "fit", "--disable-validation",
        *options, **environment,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_teachers_that_do_not_fit_are_refused(corpus: Corpus) -> None:
    status, said = train(corpus, **{LIMIT_VARIABLE: "0.00001"})
    assert status == 1
    assert "2 teachers and the student do not fit: a rank would need" in said
    assert "no placement, stage or batch tried fits" in said
    # Nothing had been loaded.
    assert "teacher 1:" not in said


def test_deepspeed_refuses_them_as_well(corpus: Corpus, tmp_path: Path) -> None:
    settings = tmp_path / "ds.json"
    settings.write_text('{"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}')
    status, said = train(corpus, "--deepspeed", settings, **{LIMIT_VARIABLE: "0.00001"})
    assert status == 1
    assert "2 teachers and the student do not fit" in said
    assert "teacher 1:" not in said


def test_hydra_train_refuses_them_as_well(corpus: Corpus, tmp_path: Path) -> None:
    sizes = "{embed_dim: 16, ffn_embed_dim: 32, layers: 1, attention_heads: 2}"
    (tmp_path / "student.yaml").write_text(
        f"""# @package _group_
common: {{cpu: true}}
task:
  _name: ensemble_teacher_translation
  data: {corpus.data}
  ensemble_paths: "{corpus.ensemble_paths}"
criterion: {{_name: proxy_dirichlet}}
dataset: {{batch_size: 4, num_workers: 0}}
optimizer: {{_name: adam}}
lr_scheduler: {{_name: fixed}}
model: {{_name: transformer, encoder: {sizes}, decoder: {sizes}}}
hydra: {{run: {{dir: {tmp_path}}}}}
"""
    )
    done = run(
        "seqdistill-fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "student",
        **{LIMIT_VARIABLE: "0.00001"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "2 teachers and the student do not fit" in done.stdout + done.stderr
    assert "teacher 1:" not in done.stdout + done.stderr


def test_teachers_that_fit_are_trained_with(corpus: Corpus) -> None:
    status, said = train(corpus, **{LIMIT_VARIABLE: "1"})
    assert status == 0, said[-2000:]
    assert "memory predicted" in said
    assert "of 1.0 GiB, at its peak" in said
    assert said.index("memory predicted") < said.index("teacher 1:")


def test_the_limit() -> None:
    assert device_limit({LIMIT_VARIABLE: "2"}, True) == 2 * 2**30
    assert device_limit({LIMIT_VARIABLE: "0"}, False) is None
    assert device_limit({}, True) is None
    with pytest.raises(InputError, match="SEQDISTILL_DEVICE_MEMORY: expected GiB"):
        device_limit({LIMIT_VARIABLE: "much"}, True)
