"""Installed programs, run for real in processes that start fast.

A fresh Python spends five to eight seconds of a processor on imports before a program begins. These
are forked from a server that has done the imports and nothing else; then the program's own entry
point runs with its arguments, its environment and streams of its own, until it exits.
"""

import atexit
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tests.ranks import fast_processes

PROGRAMS = Path(sys.executable).parent


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
    added = {"OMP_NUM_THREADS": "1"} | environment
    if fresh:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=600,
            env=os.environ | added,
            check=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        process: Any = fast_processes().Process(
            target=_program, args=(command, {**os.environ, **added}, os.getcwd(), streams)
        )
        process.start()
        process.join(timeout=600)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, 600)
        texts = [stream.read_text(encoding="utf-8", errors="replace") for stream in streams]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _program(
    command: Sequence[str], environment: dict[str, str], folder: str, streams: Sequence[Path]
) -> None:
    for number, path in enumerate(streams, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    # As a program finds them: buffered by lines on a terminal only.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = list(command)
    (entry,) = entry_points(group="console_scripts", name=Path(command[0]).name)
    try:
        sys.exit(entry.load()())
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        # A process that multiprocessing forked ends without them; interactive decoding puts its
        # file in place in one.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
