import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.cli.main import main
from seqdistill.hypotheses import write_hypotheses
from tests.reference.hypothesis_sets import make_hypotheses


@pytest.fixture
def students(tmp_path: Path) -> dict[str, str]:
    """Two scorings of the texts of the ensemble's forced.jsonl."""
    paths = {}
    for name, factor in (("near", 1.1), ("far", 2.0)):
        paths[name] = str(tmp_path / f"{name}.jsonl")
        write_hypotheses(
            paths[name],
            [
                replace(h, token_log_probs=[factor * p for p in h.token_log_probs])
                for h in make_hypotheses(60, forced=True)
            ],
        )
    return paths


def options(systems: Path, students: dict[str, str], *more: str) -> list[str]:
    reference = str(systems / "ensemble" / "forced.jsonl")
    return [
        "fidelity", *students.values(), "--reference", reference, "--bootstrap", "20", *more
    ]  # fmt: skip


def test_the_real_command(systems: Path, students: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "fidelity.json"
    command = [
        sys.executable, "-m", "seqdistill.cli.main",
        *options(systems, students, "--output", str(output), "--baseline", "near"),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["number", "near", "far"]
    assert any(line.startswith("spearman_token:epkl") for line in lines)
    assert any(line.split()[:2] == ["difference", "far"] for line in lines)
    assert "metric:log_prob_gap|mean:tokens|def:abs(ln p−ln p_ref)" in done.stderr
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["schema"] == "seqdistill.fidelity/1"
    near, far = (record["systems"][name]["numbers"] for name in ("near", "far"))
    assert far["log_prob_gap"]["value"] == pytest.approx(10 * near["log_prob_gap"]["value"])
    difference = record["comparisons"]["far"]["log_prob_gap"]
    assert difference["difference"]["low"] > 0.0
    assert difference["p_value"] == pytest.approx(1 / 21)


def test_bad_input(
    systems: Path, students: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(systems, students, "--baseline", "x")) == 2
    assert "--baseline: expected one of near, far" in capsys.readouterr().err
    other = str(systems / "student" / "forced.jsonl")
    assert main(options(systems, {"other": other})) == 1
    assert "the source of sentence 1 is not that of" in capsys.readouterr().err
    searched = str(systems / "ensemble" / "in_domain.jsonl")
    assert main(options(systems, {"other": searched})) == 1
    assert "was searched for, not forced" in capsys.readouterr().err
