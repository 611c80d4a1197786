"""Installed programs, run for real in processes that start fast.

A fresh Python spends five to eight seconds of a processor on imports before a program begins. These
are forked from a process that has done the imports and nothing else, as steps of recipes are.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recipes.common.warm import Starter, WarmProcess

PROGRAMS = Path(sys.executable).parent
SECONDS = 600.0


@functools.cache
def _starter() -> Starter:
    return Starter({**os.environ, "OMP_NUM_THREADS": "1"}, subprocess.DEVNULL)


def run(
    program: str, *arguments: object, fresh: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run an installed command; the caller looks at the exit code.

    Args:
        program: its name.
        arguments: its arguments.
        fresh: start another Python for it, as a shell does.
        environment: variables beside those of the tests.

    Raises:
        subprocess.TimeoutExpired: it took more than ten minutes.
    """
    command = [str(PROGRAMS / program), *(str(argument) for argument in arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if fresh:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=variables, check=False
        )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = _starter().start(
            command,
            stdout=out.fileno(),
            stderr=err.fileno(),
            folder=Path.cwd(),
            environment=variables,
        )
        assert process is not None, "the process that has done the imports has failed"
        code = _wait(process, command)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", errors="replace"))
    return subprocess.CompletedProcess(command, code, *texts)


def _wait(process: WarmProcess, command: list[str]) -> int:
    end = time.monotonic() + SECONDS
    while (code := process.poll()) is None:
        if time.monotonic() > end:
            process.end(0.0)
            raise subprocess.TimeoutExpired(command, SECONDS)
        time.sleep(0.02)
    return code
