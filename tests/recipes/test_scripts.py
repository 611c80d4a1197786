"""The shell scripts: valid, executable, and quick where there is nothing to do."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from recipes.common.recipe import REPOSITORY

SCRIPTS = sorted(
    [*REPOSITORY.glob("scripts/*.sh"), *REPOSITORY.glob("recipes/*/run.sh"), REPOSITORY / ".ci/run"]
)
NAMES = [str(path.relative_to(REPOSITORY)) for path in SCRIPTS]


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_scripts_parse_and_stop_at_errors(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "set -euo pipefail" in path.read_text()
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_scripts_pass_shellcheck(path: Path) -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([shellcheck, str(path)], check=True)


def test_set_up_says_when_there_is_no_python(tmp_path: Path) -> None:
    environment = {**os.environ, "SEQDISTILL_VENV": str(tmp_path / "venv"), "PYTHON": "/bin/false"}
    done = subprocess.run(
        ["bash", str(REPOSITORY / "scripts/setup.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "PYTHON=/bin/false is not a Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_constraints_are_exact_sorted_and_without_the_package_itself() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    assert pins == sorted(pins, key=lambda line: line.partition("==")[0].lower())
    assert not any(line.startswith("seqdistill") for line in pins)
