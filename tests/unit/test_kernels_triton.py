"""The Triton backend: in the interpreter against float64, as compiled code without a GPU, on one.

The interpreter shows that the kernels compute the right thing, not that they compile; compiling
them for a GPU that is not there shows the rest, up to running it.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.kernels.triton import interpreting, triton_status
from seqdistill.kernels.triton.backend import _rows, _shape
from tests.unit.triton_checks import Result, all_checks

ROOT = Path(__file__).parents[2]

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available() or interpreting(), reason="no CUDA device"
)

GROUPS = (
    "functions",
    "student",
    "no_worse_than_eager",
    "runaway",
    "dtypes",
    "layout",
    "driver",
    "refusals",
    "members",
)


def run_module(module: str, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """Run a module in a process of its own; return the JSON lines it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- the interpreter ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interpreted() -> list[dict[str, Any]]:
    """All checks in the interpreter, on the CPU; numpy's warnings are errors there."""
    return run_module("tests.unit.triton_checks", TRITON_INTERPRET="1")


def assert_all_passed(results: list[Result]) -> None:
    assert results
    failed = [r for r in results if not r.passed]
    assert not failed, "\n".join(f"{r.name}: {r.error:.2g} > {r.allowed:.2g}" for r in failed)


@needs_triton
@pytest.mark.parametrize("group", GROUPS)
def test_interpreted_kernels(group: str, interpreted: list[dict[str, Any]]) -> None:
    results = [Result(**line) for line in interpreted if "group" in line]
    assert {r.group for r in results} == set(GROUPS)
    assert_all_passed([r for r in results if r.group == group])


def test_a_wrong_result_does_not_pass() -> None:
    assert Result("student", "small enough", 1e-6, 1e-5).passed
    assert not Result("student", "too large", 2e-5, 1e-5).passed
    assert not Result("student", "not a number", float("nan"), 1e-5).passed


@needs_triton
def test_status_of_the_interpreter(interpreted: list[dict[str, Any]]) -> None:
    (status,) = [line["status"] for line in interpreted if "status" in line]
    usable, reason, imported, launched, launch_reason = status
    assert usable
    assert "correctness only" in reason
    assert not imported, "asking for the status imported triton"
    assert launched, launch_reason


# --- compiled, without a GPU ----------------------------------------------------------------


def can_compile() -> bool:
    """Whether triton is here with what it needs to compile for a GPU that is not."""
    if importlib.util.find_spec("triton") is None:
        return False
    version = tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
    return version >= (3, 3) and importlib.util.find_spec("triton.backends.nvidia") is not None


@pytest.mark.skipif(not can_compile(), reason="no triton ≥ 3.3 with a compiler for CUDA")
def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    compiled = run_module("tests.unit.triton_compile", TRITON_CACHE_DIR=str(tmp_path))
    kernels = {"add_member_kernel", "ensemble_kernel", "student_kernel"}
    assert {line["name"] for line in compiled} == {*kernels, "float64_kernel"}
    for line in compiled:
        assert line["cubin_bytes"] > 1000, line
        assert line["columns_held_once"], line
        # float64 in a loop over V would be right, and many times slower on most GPUs.
        assert line["float64_in_loops"] == (line["name"] not in kernels), line


# --- on a GPU -------------------------------------------------------------------------------


@needs_triton
@needs_cuda
@pytest.mark.parametrize("sizes", [(17, 257, 2100), (40_000, 32_003)], ids=str)
def test_kernels_on_a_gpu(sizes: tuple[int, ...]) -> None:
    results = list(all_checks("cuda", sizes))
    assert {r.group for r in results} == set(GROUPS)
    assert_all_passed(results)


@needs_triton
@needs_cuda
def test_status_of_a_gpu() -> None:
    usable, reason = triton_status(launch=True)
    assert usable, reason
    assert torch.cuda.get_device_name() in reason


# --- status, shapes, refusals ---------------------------------------------------------------


def without_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_status_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    without_interpreter(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_status() == (False, "no CUDA device")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert triton_status() == (False, "the package triton is not installed")


def test_status_of_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    without_interpreter(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU of 2016")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    monkeypatch.setattr(torch.version, "hip", None)
    assert triton_status() == (False, "GPU of 2016 has compute capability 6.1; Triton needs 8.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert triton_status() == (True, "CUDA device GPU of 2016")


def test_status_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise RuntimeError("driver mismatch\nand a long story")

    without_interpreter(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", broken)
    assert triton_status() == (False, "RuntimeError: driver mismatch")


@pytest.mark.parametrize("value", ["1", "true", "on"])
def test_the_interpreter_is_asked_for_by_the_environment(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert interpreting()
    for off in ("0", "", "false"):
        monkeypatch.setenv("TRITON_INTERPRET", off)
        assert not interpreting()


@pytest.mark.parametrize(
    ("V", "expected"),
    [
        (2, {"BLOCK": 128, "num_warps": 4}),
        (1000, {"BLOCK": 1024, "num_warps": 8}),
        (40_000, {"BLOCK": 2048, "num_warps": 16}),
        (256_000, {"BLOCK": 2048, "num_warps": 16}),
    ],
)
def test_a_thread_never_shares_a_column(V: int, expected: Mapping[str, int]) -> None:
    shape = _shape(V)
    assert shape == expected
    assert shape["BLOCK"] >= 32 * shape["num_warps"]


def test_tensors_on_the_cpu_are_refused_without_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    message = "computes on CUDA devices, the logits are on cpu; take auto or eager"
    with pytest.raises(InputError, match=message):
        _rows(torch.zeros(2, 5))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert _rows(torch.zeros(2, 5)) == (2, 5)
