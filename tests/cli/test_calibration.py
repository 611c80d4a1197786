import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqdistill.cli.main import main


def test_the_real_command(systems: Path, tmp_path: Path) -> None:
    output, diagram = tmp_path / "calibration.json", tmp_path / "reliability.svg"
    command = [
        sys.executable, "-m", "seqdistill.cli.main", "calibration",
        f"ensemble={systems / 'ensemble' / 'forced.jsonl'}",
        f"student={systems / 'student' / 'forced.jsonl'}",
        "--bootstrap", "20", "--output", str(output), "--diagram", str(diagram),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["system", "NLL"]
    assert [line.split()[0] for line in lines[2:]] == ["ensemble", "student"]
    assert "metric:ece|binning:equal_mass|bins:15|norm:1|predictive:pe" in done.stderr
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["schema"] == "seqdistill.calibration/1"
    numbers = record["systems"]["student"]["numbers"]
    assert set(numbers) >= {"nll", "ece_equal_mass", "ece_equal_width", "entropy_gap"}
    assert numbers["nll"]["low"] <= numbers["nll"]["value"] <= numbers["nll"]["high"]
    assert "95-pivotal" in numbers["ece_equal_mass"]["signature"]
    points = record["systems"]["ensemble"]["reliability"]
    assert len(points["confidence"]) == len(points["accuracy"]) == len(points["count"]) <= 15
    drawn = diagram.read_text(encoding="utf-8")
    assert "student (ECE" in drawn


def test_differences_to_a_baseline(
    systems: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = systems / "ensemble" / "forced.jsonl"
    same = [f"a={path}", f"b={path}", "--baseline", "a", "--bootstrap", "20"]
    assert main(["calibration", *same, "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("| b")
    assert lines[-1].count("p=1") == 6
    assert main(["calibration", *same, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["comparisons"]["b"]["nll"]["difference"]["value"] == 0.0
    png = tmp_path / "reliability.png"
    assert main(["calibration", str(path), "--bootstrap", "0", "--diagram", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--baseline", "x"], 2, "--baseline: expected one of forced, got 'x'"),
        (["--bins", "0"], 1, "at least one bin"),
        (["--binning", "log"], 2, "invalid choice"),
        (["--diagram", "x.pdf"], 1, "ends in .svg or .png"),
        (["missing.jsonl"], 1, "missing.jsonl: no such file"),
    ],
)
def test_unusable_options(
    systems: Path, capsys: pytest.CaptureFixture[str], more: list[str], status: int, message: str
) -> None:
    path = str(systems / "ensemble" / "forced.jsonl")
    assert main(["calibration", path, *more, "--bootstrap", "0"]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_searched_hypotheses_are_refused(systems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = systems / "ensemble" / "news.jsonl"
    assert main(["calibration", str(path)]) == 1
    assert f"{path}:1: sentence 0 was searched for, not forced" in capsys.readouterr().err


def test_systems_of_other_tokens_are_refused(
    systems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [f"{name}={systems / name / 'forced.jsonl'}" for name in ("ensemble", "student")]
    assert main(["calibration", *paths, "--baseline", "ensemble"]) == 1
    assert "the source of sentence" in capsys.readouterr().err
