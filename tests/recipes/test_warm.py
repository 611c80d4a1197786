"""Programs forked from a process that has done the imports behave as programs that are started."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.common.progress import Display
from recipes.common.runner import Runner, resolve
from recipes.common.steps import Step
from recipes.common.warm import Starter, WarmProcess, can_start

pytest.importorskip("fairseq", reason="needs the extra seqdistill[fairseq]")

PROGRAM = [sys.executable, "-m", "tests.recipes.warm_program"]


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    starter = Starter(os.environ, subprocess.DEVNULL)
    yield starter
    starter.close()


def start(starter: Starter, folder: Path, *words: str) -> WarmProcess:
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        process = starter.start(
            [*PROGRAM, *words],
            stdout=out.fileno(),
            stderr=err.fileno(),
            folder=folder,
            environment={"WARM_TEST": "1", "PATH": "/bin"},
        )
    assert process is not None
    return process


def wait(process: WarmProcess, seconds: float = 60.0) -> int:
    end = time.monotonic() + seconds
    while (code := process.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return code


def said(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out").read_text().splitlines()[0])
    return found


def test_a_program_finds_what_it_was_given(starter: Starter, tmp_path: Path) -> None:
    assert wait(start(starter, tmp_path, "end", "3")) == 3
    found = said(tmp_path)
    assert found["words"] == ["end", "3"]
    assert found["folder"] == str(tmp_path)
    assert found["variable"] == "1"
    assert found["variables"] <= 3  # Python may add LC_CTYPE
    assert found["imported"]
    assert found["name"] == "__main__"
    assert found["input"] == ""
    assert (tmp_path / "out").read_text().splitlines()[1:] == ["at exit"]
    assert (tmp_path / "err").read_text() == "an error stream\n"


def test_programs_run_beside_each_other_and_share_no_chance(
    starter: Starter, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    first, second = (start(starter, folder, "end", "0") for folder in folders)
    assert [wait(second), wait(first)] == [0, 0]
    assert said(folders[0])["random"] != said(folders[1])["random"]


def test_what_is_raised_ends_it_with_a_trace(starter: Starter, tmp_path: Path) -> None:
    assert wait(start(starter, tmp_path, "raise")) == 1
    assert (tmp_path / "err").read_text().endswith("ValueError: as told\n")


def test_signals_and_usage(starter: Starter, tmp_path: Path) -> None:
    process = start(starter, tmp_path, "wait")
    while not (tmp_path / "out").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.ask_to_end()
    process.end(30.0)
    assert process.poll() == -signal.SIGTERM
    process.ask_to_end()  # nothing, now
    process = start(starter, tmp_path, "work", "0")
    assert wait(process) == 0
    assert process.usage is not None
    assert 0.3 <= process.usage.cpu_seconds < 3.0  # no imports in it
    assert process.usage.peak_bytes > 50e6


def test_without_its_starter_a_program_counts_as_lost(tmp_path: Path) -> None:
    starter = Starter(os.environ, subprocess.DEVNULL)
    process = start(starter, tmp_path, "wait")
    while not (tmp_path / "out").read_text():
        time.sleep(0.01)
    os.kill(said(tmp_path)["parent"], signal.SIGKILL)
    assert wait(process) == -signal.SIGKILL
    with open(os.devnull, "wb") as out:
        lost = starter.start(
            [*PROGRAM, "end", "0"],
            stdout=out.fileno(),
            stderr=out.fileno(),
            folder=tmp_path,
            environment={},
        )
    assert lost is None
    starter.close()
    os.kill(process._pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("python", "-m", "recipes.common.pieces", "--help"), True),
        (("python", "-m", "pytest"), False),
        (("python", "-c", "pass"), False),
        (("seqdistill-fairseq-train", "data"), True),
        (("seqdistill-fairseq-train", "data", "--deepspeed", "zero.json"), False),
        (("seqdistill-fairseq-train", "data", "--optimizer", "cpu_adam"), False),
        (("fairseq-generate", "data"), True),
        (("/bin/echo", "data"), False),
        (("deepspeed", "--num_gpus", "2", "seqdistill-fairseq-train"), False),
    ],
)
def test_what_is_forked(
    command: tuple[str, ...], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.common.warm._ACCELERATORS", ())
    assert can_start(resolve(command)) == expected


def test_nothing_is_forked_beside_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.common.warm._ACCELERATORS", (str(tmp_path),))
    assert not can_start(resolve(("seqdistill-fairseq-train", "data")))


@pytest.mark.parametrize("works", [True, False])
def test_steps_run_with_a_starter_and_without(
    works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it cannot import what it has to, programs are started as ever."""
    monkeypatch.setattr("recipes.common.warm._ACCELERATORS", ())
    if not works:
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "fairseq.py").write_text("raise ImportError('as told')\n")
        monkeypatch.setenv("PYTHONPATH", str(broken))
    step = Step("say", 1, ("seqdistill", "--version"), (), ())
    runner = Runner([step], tmp_path / "work", display=Display(io.StringIO()))
    assert runner.run([step]) == 1
    log = runner.log_path(step).read_text().splitlines()
    assert log[0].startswith("$ seqdistill")
    assert log[1].startswith("seqdistill ")
    assert runner.warm == works
    starter_log = (tmp_path / "work" / "logs" / "starter.log").read_text()
    assert ("as told" in starter_log) != works
