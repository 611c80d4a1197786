import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.cli.main import main
from seqdistill.hypotheses import ModelInfo, write_hypotheses
from tests.reference.sharpened import Sharpened


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


@pytest.fixture(scope="module")
def sharpened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two systems, too sure and nearly right, scored on a validation and a test set."""
    root = tmp_path_factory.mktemp("sharpened")
    for name, sharpness in (("sure", 1.6), ("right", 1.05)):
        for seed, part in enumerate(("valid", "test")):
            made = Sharpened(80, sharpness, seed=seed, V=100)
            write_hypotheses(root / f"{name}.{part}.jsonl", made.hypotheses())
    return root


def test_a_temperature_as_a_control(sharpened: Path, tmp_path: Path) -> None:
    output, diagram = tmp_path / "calibration.json", tmp_path / "reliability.svg"
    command = [sys.executable, "-m", "seqdistill.cli.main", "calibration"]
    command += [f"{name}={sharpened / name}.test.jsonl" for name in ("sure", "right")]
    for name in ("sure", "right"):
        command += ["--validation", f"{name}={sharpened / name}.valid.jsonl"]
    command += ["--baseline", "right", "--bootstrap", "40", "--output", str(output)]
    done = subprocess.run(
        [*command, "--diagram", str(diagram)], check=True, capture_output=True, text=True
    )
    record = json.loads(output.read_text(encoding="utf-8"))
    sure = record["systems"]["sure"]
    temperature = sure["tempered"]["temperature"]
    assert 1.4 < temperature["temperature"]["value"] < 1.8
    assert temperature["path"].endswith("sure.valid.jsonl")
    label = f"sure, T = {temperature['temperature']['value']:.3f}"
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]][:2] == ["sure", label]
    assert sum(line.startswith("difference") for line in lines) == 3
    assert f"temperature {temperature['temperature']['value']:.3f} [" in done.stderr
    assert "fit:[nll;sure.valid.jsonl;n:640;sents:80]" in done.stderr
    for name in ("nll", "ece_equal_mass", "ece_equal_width"):
        change = sure["tempered"]["differences"][name]
        assert change["difference"]["high"] < 0.0
        assert change["p_value"] == pytest.approx(1 / 41)
        before, after = sure["numbers"][name], sure["tempered"]["numbers"][name]
        assert change["difference"]["value"] == pytest.approx(after["value"] - before["value"])
        assert "|T:" in after["signature"]
    assert "95-pivotal" in sure["tempered"]["differences"]["ece_equal_mass"]["signature"]
    # Sharpened alike and drawn alike, the two are one system at their temperatures.
    apart = record["comparisons"]["sure"]["nll"]["difference"]["value"]
    alike = record["comparisons_tempered"]["sure"]["nll"]["difference"]["value"]
    assert abs(alike) < 0.01 < apart
    assert label in diagram.read_text(encoding="utf-8")


def test_a_single_validation_set_needs_no_name(
    sharpened: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--validation", str(sharpened / "sure.valid.jsonl"), "--bootstrap", "0"]
    assert main(["calibration", str(sharpened / "sure.test.jsonl"), *given]) == 0
    assert "sure.test, T = 1." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("valid", "status", "message"),
    [
        ("other=sure.valid.jsonl", 2, "expected NAME=FILE of one of sure, right, got 'other'"),
        ("sure=sure.test.jsonl", 1, "fitted on the set that is assessed"),
        ("sure=forced.jsonl", 1, "forced.jsonl:1: no tempered.temperatures"),
        ("sure=ensemble.jsonl", 1, "is of ensemble of 5"),
    ],
)
def test_unusable_validation_sets(
    systems: Path, sharpened: Path, capsys: pytest.CaptureFixture[str], valid: str, status: int,
    message: str,
) -> None:  # fmt: skip
    name, _, file = valid.partition("=")
    path = systems / "ensemble" / file if file == "forced.jsonl" else sharpened / file
    if file == "ensemble.jsonl":
        made = Sharpened(30, 1.2, V=50).hypotheses()
        write_hypotheses(path, [replace(h, model=ModelInfo("ensemble", 5, "pe")) for h in made])
    paths = [f"{name}={sharpened / name}.test.jsonl" for name in ("sure", "right")]
    assert main(["calibration", *paths, "--validation", f"{name}={path}"]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


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
