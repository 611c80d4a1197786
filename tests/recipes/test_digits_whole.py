"""The bench of methods on speech at its smallest, whole: two methods on tones, word errors out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.methods.table import read_rows
from recipes.common.recipe import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The work folder of a finished bench, and what it printed to stdout."""
    for module in ("fairseq", "torchaudio", "soundfile"):
        pytest.importorskip(module, reason="needs the extras seqdistill[fairseq,speech]")
    work = tmp_path_factory.mktemp("digits") / "work"
    command = [sys.executable, "-m", "benchmarks.methods", "--work-dir", str(work)]
    command += ["--file", "benchmarks/methods/digits.yaml", "--set", "scale=tiny"]
    command += ["--set", "systems.teacher1={models: teacher1, label: one teacher}"]
    command += ["--set", "data.ood.backwards=null", "--updates", "4", "--seeds", "1"]
    done = subprocess.run(
        [*command, "--methods", "cheap_dropout,relational"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return work, done.stdout


def test_the_table_has_word_errors(whole: tuple[Path, str]) -> None:
    work, printed = whole
    header = printed.partition("| method")[2].splitlines()[0]
    assert "WER ↓" in header
    assert "BLEU" not in printed
    values = {(row.method, row.metric): row.value for row in read_rows(work / "digits.csv")}
    for name in ("cheap_dropout", "relational"):
        assert values[name, "wer"] > 0
        assert values[name, "train_cpu_minutes"] > 1 / 60
        assert values[name, "kl"] > 0
    assert values["hydra", "runs"] == 0
    page = (work / "digits.md").read_text(encoding="utf-8")
    assert "--file benchmarks/methods/digits.yaml --recipe recipes/an4" in page
    assert "metric:wer|" in page


def test_members_and_graphs_are_of_speech(whole: tuple[Path, str]) -> None:
    """Four members of one teacher; the term of the graphs is in the log."""
    work, _ = whole
    assert len(list((work / "runs" / "cheap_dropout" / "members").glob("*.pt"))) == 4
    log = (work / "logs" / "distil-relational-seed1.log").read_text(encoding="utf-8")
    found = [
        json.loads(line[line.index("{") :]) for line in log.splitlines() if "| train |" in line
    ]
    assert found
    # Teachers after 20 updates are all but one, so the log's digits may show 0.
    assert all(float(one["train_relational_loss"]) >= 0 for one in found)
