"""``seqdistill plan`` from the command line."""

import json

import pytest

from seqdistill.cli.main import main
from seqdistill.planning import MACHINES
from seqdistill.planning.calibration import calibrate
from seqdistill.planning.machines import Assumptions


def test_a_plan_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--members", "5", "--updates", "1000"]) == 0
    out = capsys.readouterr().out
    for wanted in ("memory of a rank", "teachers", "fused loss", "time of an update", "fits: "):
        assert wanted in out


def test_a_plan_that_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--members", "20", "--gpus", "8", "--device", "v100", "--precision", "float16"]
    assert main(["plan", *options]) == 1
    assert "with --teacher-placement shard it would" in capsys.readouterr().out
    assert main(["plan", *options, "--teacher-placement", "shard"]) == 0
    assert main(["plan", *options, "--memory", "32"]) == 0
    capsys.readouterr()


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json", "--student", "6,512,2048,8", "--vocabulary", "8000"]) == 0
    record = json.loads(capsys.readouterr().out)
    base = main(["plan", "--json", "--student", "transformer-base", "--vocabulary", "8000"])
    other = json.loads(capsys.readouterr().out)
    assert base == 0
    assert record["student_parameters"] == other["student_parameters"] == 48_234_496
    assert set(record["seconds"]["parts"]) >= {"student forward", "teachers", "fused loss"}
    assert record["assumptions"]["body_efficiency"] == 0.4


def test_rates_and_assumptions_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    def seconds(*options: str) -> dict[str, float]:
        assert main(["plan", "--json", *options]) == 0
        parts: dict[str, float] = json.loads(capsys.readouterr().out)["seconds"]["parts"]
        return parts

    plain, half = seconds(), seconds("--assume", "body_efficiency=0.2")
    assert half["student forward"] > 1.5 * plain["student forward"]
    assert half["fused loss"] == plain["fused loss"]
    assert seconds("--tflops", "100")["fused loss"] > plain["fused loss"]
    assert seconds("--bandwidth", "100")["optimizer"] > plain["optimizer"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--assume", "luck=1"], "unknown 'luck'"),
        (["--assume", "overlap=2"], "expected a share"),
        (["--assume", "overlap=much"], "overlap=much"),
        (["--memory", "-1"], "above 0"),
    ],
)
def test_wrong_usage(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *options]) == 2
    assert message in capsys.readouterr().err


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--student", "transformer-huge"]) == 1
    assert "unknown size 'transformer-huge'" in capsys.readouterr().err
    assert main(["plan", "--teacher", "none.pt"]) == 1
    assert "none.pt: no such checkpoint" in capsys.readouterr().err


def test_calibration_measures() -> None:
    device, assumptions = calibrate(MACHINES["cpu"], Assumptions())
    assert device.flops32 > 1e9
    assert device.bandwidth > 1e8
    assert device.memory > 2**30
    assert 0 < assumptions.body_efficiency <= 1
    assert 1e-11 < assumptions.member_seconds < 1e-6
    assert assumptions.adam_bytes > 10
