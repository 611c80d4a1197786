import argparse
import json
import sys
from typing import Any

import pytest

from seqdistill.cli import doctor
from seqdistill.cli.main import main
from seqdistill.kernels import select


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_text_names_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr()
    for expected in ("python", "platform", "processor", "torch", "threads", "fairseq", "triton"):
        assert f"\n{expected}" in printed.out or f"\n  {expected}" in printed.out
    assert "eager   usable: plain PyTorch" in printed.out
    assert "--loss-backend auto\n  on cpu" in printed.out
    assert printed.err == ""


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    report = report_of(capsys)
    assert report["broken"] is None
    assert report["torch"]["version"] == torch.__version__
    assert report["torch"]["threads"] == torch.get_num_threads()
    assert set(report["loss_backends"]) == set(select.BACKENDS) - {"auto"}
    cpp = report["loss_backends"]["cpp"]
    assert (cpp["usable"], cpp["reason"]) == select.backend_status("cpp")
    assert report["auto"]["cpu"]["backend"] == ("cpp" if cpp["usable"] else "eager")
    assert report["packages"]["numpy"][0].isdigit()


def test_it_says_why_a_backend_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = select.backend_status

    def without_cpp(name: str) -> tuple[bool, str]:
        return (False, "no C++ compiler found") if name == "cpp" else real(name)

    monkeypatch.setattr(select, "backend_status", without_cpp)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "cpp     not usable: no C++ compiler found" in printed
    assert "on cpu   eager (cpp cannot be used: no C++ compiler found)" in printed


def test_a_missing_package_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", {"absent": ("no-such-package",)})
    assert report_of(capsys)["packages"] == {"absent": None}
    assert main(["doctor"]) == 0
    assert "absent  not installed" in capsys.readouterr().out


def test_a_broken_core_is_1_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert doctor.run(argparse.Namespace(json=False)) == 1
    printed = capsys.readouterr()
    assert "python" in printed.out
    assert "seqdistill doctor: broken: ModuleNotFoundError" in printed.err


def test_help_ends_in_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "example:\n  seqdistill doctor" in printed[printed.index("options:") :]
