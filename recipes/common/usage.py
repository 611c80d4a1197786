"""What a step costs the machine: CPU time and peak memory of its process and its children."""

import os
import subprocess
import sys
import time
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


class MeasuredProcess:
    """A process whose usage is known when it has ended.

    Wall time says little on a machine that is shared; the kernel's count of CPU time is handed out
    once, to whoever waits for the process, so it is waited for here and nowhere else.

    Args:
        process: just started.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.usage: Usage | None = None

    def poll(self) -> int | None:
        """Return the exit status as ``subprocess`` gives it, None while the process runs."""
        return self._wait(os.WNOHANG)

    def ask_to_end(self) -> None:
        """Send the signal that asks a process to end."""
        if self.poll() is None:
            self._process.terminate()

    def end(self, seconds: float) -> None:
        """Wait for the end, and force it when the process still runs after so many seconds."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self._process.kill()
                self._wait(0)
                return
            time.sleep(_POLL_SECONDS)

    def _wait(self, options: int) -> int | None:
        if self._process.returncode is None:
            pid, status, used = os.wait4(self._process.pid, options)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                seconds = used.ru_utime + used.ru_stime
                self.usage = Usage(seconds, used.ru_maxrss * _PER_MAXRSS)
        return self._process.returncode
