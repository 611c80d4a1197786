"""The real command under a real launcher, and what it says where it cannot go on."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.plugins.corpus import PROGRAMS, Corpus, logged, run, training_arguments
from tests.plugins.test_scale_curves import (
    PROXY,
    configuration,
    stage_configuration,
    translation,
)


def torchrun(options: list[object], arguments: list[str]) -> "subprocess.Popen[str]":
    program = PROGRAMS / "seqdistill-fairseq-train"
    return subprocess.Popen(
        [str(x) for x in (PROGRAMS / "torchrun", *options, "--no-python", program, *arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_command_under_torchrun_on_one_node_and_on_two(corpus: Corpus, tmp_path: Path) -> None:
    """Two launchers that find each other, each with one process, are one launcher with two."""
    arguments = training_arguments(corpus, tmp_path / "saved", *PROXY, "--max-update", 3)
    arguments += ["--no-save", "--deepspeed", stage_configuration(tmp_path, 2)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    node = ["--nnodes", 2, "--nproc_per_node", 1, "--rdzv_id", 1, "--rdzv_backend", "c10d"]
    node += ["--rdzv_endpoint", endpoint]
    curves = []
    for launchers in ([["--standalone", "--nproc_per_node", 2]], [node, node]):
        running = [torchrun(options, arguments) for options in launchers]
        said = [process.communicate(timeout=300)[0] for process in running]
        assert [process.returncode for process in running] == [0] * len(running), said[0][-3000:]
        records = [logged(text, "train_inner") for text in said]
        (mine,) = [found for found in records if found]
        assert [record["num_updates"] for record in mine] == [1, 2, 3], "rank 0 alone logs"
        assert any("training on 2 devices" in text for text in said)
        curves.append([(record["loss"], record["gnorm"]) for record in mine])
    assert curves[0] == curves[1]


def test_mistakes_are_told_in_one_line(corpus: Corpus, tmp_path: Path) -> None:
    arguments = training_arguments(corpus, tmp_path / "saved", *PROXY, "--max-update", 1)
    bad = configuration(tmp_path, "bad", {"zero_optimisation": {"stage": 2}})
    result = run("seqdistill-fairseq-train", *arguments, "--deepspeed", bad)
    assert result.returncode == 1
    (line,) = [text for text in result.stderr.splitlines() if "error:" in text]
    assert line.endswith("the nearest known one is 'zero_optimization'")


def test_without_deepspeed_the_extra_is_named_and_nothing_else_needs_it(
    corpus: Corpus, tmp_path: Path
) -> None:
    """A Python that cannot import deepspeed; the plug-ins do not load what asks for it."""
    arguments = training_arguments(corpus, tmp_path / "saved", *PROXY, "--no-save")
    arguments += ["--max-update", "1"]
    code = f"""
import sys
sys.modules["deepspeed"] = None
from seqdistill.cli.fairseq_programs import train
sys.argv = ["seqdistill-fairseq-train", *{arguments!r}]
train()
assert not [name for name in sys.modules if name.startswith("fairseq_plugins.scale")]
sys.argv += ["--deepspeed", "ds.json"]
train()
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 1, result.stderr[-2000:]
    assert len(logged(result.stdout + result.stderr, "train_inner")) == 1
    assert result.stderr.splitlines()[-1].endswith('pip install "seqdistill[deepspeed]"')


def test_an_optimizer_of_whole_tensors_goes_without_zero_only(
    corpus: Corpus, tmp_path: Path
) -> None:
    arguments = training_arguments(corpus, tmp_path / "saved", *PROXY, "--max-update", 1)
    arguments[arguments.index("adam")] = "adafactor"
    deepspeed = ["--deepspeed", stage_configuration(tmp_path, 1)]
    result = run("seqdistill-fairseq-train", *arguments, *deepspeed)
    assert result.returncode == 1
    assert "--optimizer adafactor works on whole tensors" in result.stderr.splitlines()[-1]


def test_a_criterion_that_counts_something_else_ends_the_training(
    corpus: Corpus, tmp_path: Path
) -> None:
    """The loss was divided by the tokens of the batches before anybody asked the criterion."""
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "__init__.py").write_text(
        """
from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig

@register_criterion("twice", dataclass=CrossEntropyCriterionConfig)
class Twice(CrossEntropyCriterion):
    def forward(self, model, sample, reduce=True):
        loss, size, log = super().forward(model, sample, reduce)
        return loss, 2 * size, log
"""
    )
    arguments = translation(corpus, "--max-update", 1)
    arguments[arguments.index("label_smoothed_cross_entropy")] = "twice"
    where = arguments.index("--label-smoothing")
    del arguments[where : where + 2]
    arguments += ["--user-dir", str(tmp_path / "twice")]
    arguments += ["--deepspeed", stage_configuration(tmp_path, 1)]
    result = run("seqdistill-fairseq-train", *arguments)
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    tokens = [float(word) for word in error.replace(",", "").split() if word.isdecimal()]
    assert "the criterion reports a sample size of" in error
    assert tokens[0] == 2 * tokens[1]
