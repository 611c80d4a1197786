"""Programs that start at once: forked from a process that has done the imports.

A step of a recipe is a program, and a program of this field spends five seconds of a processor on
importing torch and fairseq: most of what a small recipe does. Here one process imports them,
computes nothing, and forks itself for every program; the child takes the program's words,
environment, folder and streams, runs the program's own entry point and ends as programs end.

On a machine with an accelerator nothing is forked: whoever has touched its driver cannot be. There
the seconds do not matter, either.
"""

import gc
import importlib.util
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, Any

from recipes.common.usage import EndingProcess, Usage, usage_of

_MESSAGE_BYTES = 1 << 18
_POLL_SECONDS = 0.02
_ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_MODULES = ("recipes.", "benchmarks.", "seqdistill")


def can_start(command: Sequence[str]) -> bool:
    """Whether a resolved command is a program that can be forked: one of this project, on a CPU.

    What runs on DeepSpeed, or with an optimizer of it, reads its environment while it is imported.
    """
    if any(Path(path).exists() for path in _ACCELERATORS) or not _packages_are_there():
        return False
    if any("deepspeed" in word or "cpu_adam" in word for word in command):
        return False
    program = Path(command[0])
    if command[0] == sys.executable:
        return len(command) > 2 and command[1] == "-m" and command[2].startswith(_MODULES)
    beside = program.parent == Path(sys.executable).parent
    return beside and program.name.startswith(("seqdistill", "fairseq-"))


@cache
def _packages_are_there() -> bool:
    names = ("torch", "fairseq")
    return hasattr(socket, "SOCK_SEQPACKET") and all(map(importlib.util.find_spec, names))


class WarmProcess(EndingProcess):
    """A program that was forked; what ``subprocess`` and the kernel say of others, it says, too.

    Args:
        replies: where the starter says how it goes.
    """

    def __init__(self, replies: socket.socket) -> None:
        self._replies = replies
        self._pid = int(self._message()["pid"])
        self._replies.setblocking(False)
        self._code: int | None = None
        self.usage: Usage | None = None

    def poll(self) -> int | None:
        """Return the exit status as ``subprocess`` gives it, None while the program runs."""
        if self._code is None:
            try:
                message = self._message()
            except BlockingIOError:
                return None
            # Without the starter nobody knows how the program ended, or whether it did.
            self._code = message.get("code", -signal.SIGKILL)
            if "usage" in message:
                self.usage = Usage(*message["usage"])
            self._replies.close()
        return self._code

    def send(self, number: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self._pid, number)

    def _message(self) -> dict[str, Any]:
        data = self._replies.recv(_MESSAGE_BYTES)
        message: dict[str, Any] = json.loads(data) if data else {}
        return message


class Starter:
    """The process that has done the imports. It ends with whoever started it.

    Args:
        environment: of that process: what libraries read while they are loaded.
        log: where it says what goes wrong.
    """

    def __init__(self, environment: Mapping[str, str], log: IO[bytes] | int) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "recipes.common.warm", str(theirs.fileno())],
                env=dict(environment),
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
            )

    def start(
        self,
        command: Sequence[str],
        *,
        stdout: int,
        stderr: int,
        folder: Path,
        environment: Mapping[str, str],
    ) -> WarmProcess | None:
        """Run a command for which :func:`can_start` holds; None if the starter has failed.

        Args:
            command: with the whole path of its program.
            stdout: descriptor that it writes to.
            stderr: the same.
            folder: where it runs.
            environment: all of its variables.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"command": [*command], "folder": str(folder), "environment": dict(environment)}
        with theirs, open(os.devnull, "rb") as nothing:
            descriptors = [theirs.fileno(), nothing.fileno(), stdout, stderr]
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            except OSError:
                ours.close()
                return None
        try:
            return WarmProcess(ours)
        except KeyError:  # it ended before it could say anything
            ours.close()
            return None

    def close(self) -> None:
        """End the process; programs that run go on."""
        self._control.close()
        self._process.wait()


def main() -> None:
    """Do the imports, then fork for every request; a child returns from here into its program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it reaches the programs, too
    control = socket.socket(fileno=int(sys.argv[1]))
    import_all()
    request = _serve(control)
    if request is not None:
        _run(request)


def import_all() -> None:
    """Import what programs take seconds to import, and leave no trace of it in their logs."""
    import logging

    from seqdistill.cli.with_fairseq import light_imports

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with light_imports():
            import fairseq  # noqa: F401
        import seqdistill.kernels  # noqa: F401
    # Whoever is forked sets its log up by itself, as a program does.
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    gc.collect()
    gc.freeze()  # what is here stays in memory that all share


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Serve requests until the other side ends, and return None; in a child, its request."""
    running: dict[int, socket.socket] = {}
    while True:
        if select.select([control], [], [], _POLL_SECONDS if running else None)[0]:
            data, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 4)
            if not data:
                return None
            request: dict[str, Any] = json.loads(data)
            replies = socket.socket(fileno=descriptors[0])
            pid = os.fork()
            if pid == 0:
                for one in (control, replies, *running.values()):
                    one.close()
                for number, descriptor in enumerate(descriptors[1:]):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                return request
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            running[pid] = replies
            _reply(replies, {"pid": pid})
        for pid, replies in [*running.items()]:
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended:
                usage = usage_of(used)
                code = os.waitstatus_to_exitcode(status)
                _reply(replies, {"code": code, "usage": [usage.cpu_seconds, usage.peak_bytes]})
                replies.close()
                del running[pid]


def _reply(replies: socket.socket, message: dict[str, Any]) -> None:
    with suppress(OSError):  # nobody may listen any more
        replies.send(json.dumps(message).encode())


def _run(request: Mapping[str, Any]) -> None:
    """Run a program in this process as if it had been started."""
    import numpy as np

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    random.seed()  # a new process has its own
    np.random.seed()
    program, *words = request["command"]
    if program == sys.executable:
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = [program, *words]
    (entry,) = entry_points(group="console_scripts", name=Path(program).name)
    sys.exit(entry.load()())


if __name__ == "__main__":
    main()
