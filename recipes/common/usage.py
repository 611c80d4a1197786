"""What a step costs the machine: CPU time and peak memory of its process and its children."""

import os
import resource
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

_POLL_SECONDS = 0.05
_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Usage:
    """What a process has used, with all children that it waited for.

    Attributes:
        cpu_seconds: user and system time.
        peak_bytes: largest resident set of any one of these processes.
    """

    cpu_seconds: float
    peak_bytes: int

    def after(self, earlier: dict[str, Any]) -> dict[str, Any]:
        """Return this usage as a stamp's entries, after that of an interrupted part, if any."""
        return {
            "cpu_seconds": round(self.cpu_seconds + (earlier.get("cpu_seconds") or 0.0), 2),
            "peak_bytes": max(self.peak_bytes, earlier.get("peak_bytes") or 0),
        }


def usage_of(used: resource.struct_rusage) -> Usage:
    """Return what the kernel says of a process that has ended."""
    return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss * _PER_MAXRSS)


class EndingProcess(ABC):
    """A process whose usage is known when it has ended.

    Wall time says little on a machine that is shared; the kernel's count of CPU time is handed out
    once, to whoever waits for the process.
    """

    usage: Usage | None

    @abstractmethod
    def poll(self) -> int | None:
        """Return the exit status as ``subprocess`` gives it, None while the process runs."""

    @abstractmethod
    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""

    def ask_to_end(self) -> None:
        """Send the signal that asks a process to end."""
        self.send(signal.SIGTERM)

    def end(self, seconds: float) -> None:
        """Wait for the end, and force it when the process still runs after so many seconds."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)


class MeasuredProcess(EndingProcess):
    """One that was started here, and is waited for here and nowhere else.

    Args:
        process: just started.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.usage: Usage | None = None

    def poll(self) -> int | None:
        """Return the exit status as ``subprocess`` gives it, None while the process runs."""
        if self._process.returncode is None:
            pid, status, used = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.usage = usage_of(used)
        return self._process.returncode

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            self._process.send_signal(number)
