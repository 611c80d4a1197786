"""Time and memory of alternatives, measured so that they can be compared.

Alternatives take turns within each round, so a machine that slows down slows all of them; what is
reported is the median over rounds. CPU time counts all threads of the process and does not count
the time that other programs had the core, so its ratios hold on a busy machine as well.
"""

import ctypes
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.common import ROOT, progress


@dataclass(frozen=True)
class Timing:
    """Seconds of one alternative in every round.

    Attributes:
        cpu: CPU time of the process, all threads.
        wall: elapsed.
        device: of the GPU between two events; None on a CPU.
    """

    cpu: tuple[float, ...]
    wall: tuple[float, ...]
    device: tuple[float, ...] | None = None

    @property
    def seconds(self) -> float:
        """The median that ratios are made of: the GPU's time where there is one, else CPU time."""
        return median(self.device if self.device is not None else self.cpu)

    def record(self) -> dict[str, Any]:
        """Return medians and all rounds, for JSON."""
        values = {
            "seconds": self.seconds,
            "cpu_seconds": median(self.cpu),
            "wall_seconds": median(self.wall),
            "rounds": asdict(self),
        }
        if self.device is not None:
            values["device_seconds"] = median(self.device)
        return values


def interleaved(
    alternatives: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[str, Timing]:
    """Run every alternative once in each round and return their times.

    Each starts the round in turn: no alternative always finds the memory that the same other one
    has just given back. They should have run once before.

    Args:
        alternatives: by name; what a call returns is dropped at once.
        rounds: how often each runs.
        device: ``cuda`` adds the time between two events.
    """
    names = list(alternatives)
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    events: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        gc.collect()
        for name in names[start:] + names[:start]:
            before = _device_start(device)
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            alternatives[name]()
            if before is not None:
                events[name].append(_device_stop(before))
            cpu[name].append(time.process_time() - cpu_before)
            wall[name].append(time.perf_counter() - wall_before)
        progress(f"  round {turn + 1} of {rounds}")
    return {
        name: Timing(
            tuple(cpu[name]), tuple(wall[name]), tuple(events[name]) if device == "cuda" else None
        )
        for name in names
    }


def _device_start(device: str) -> Any:
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _device_stop(before: Any) -> float:
    after = torch.cuda.Event(enable_timing=True)
    after.record()
    torch.cuda.synchronize()
    return float(before.elapsed_time(after)) / 1000


# --- memory -------------------------------------------------------------------------------------


def peak_bytes_of(call: Callable[[], object], device: str = "cpu") -> tuple[int, str]:
    """Return by how much memory rose above what was held before the call, and how it was seen.

    On a CPU this is the kernel's high-water mark of the resident set, put back to the present
    size just before the call, so that what made the inputs does not hide a lower peak. Where the
    kernel does not allow that, it is ``ru_maxrss``, which can only be too low by what the inputs'
    making left behind.

    Args:
        call: run once; a smaller call should have run before, so that libraries are loaded.
        device: ``cuda`` asks torch's allocator instead.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held, "torch.cuda.max_memory_allocated"
    _return_free_memory()
    if _reset_high_water_mark():
        held = _status_bytes("VmRSS")
        call()
        return _status_bytes("VmHWM") - held, "VmHWM"
    held = _maximum_resident_bytes()
    call()
    return _maximum_resident_bytes() - held, "ru_maxrss"


def in_fresh_process(module: str, settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Run ``python -m module SETTINGS`` and return the JSON object that it prints last.

    Args:
        module: takes one argument, JSON.
        settings: that argument.
        threads: of the process.

    Raises:
        ChildFailedError: it did not end well; the error holds the last line that it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps({**settings, "threads": threads})],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said: Sequence[str] = done.stderr.strip().splitlines() or ["nothing on stderr"]
        raise ChildFailedError(f"exit status {done.returncode}: {said[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


class ChildFailedError(RuntimeError):
    """A measurement in a process of its own failed, by being killed for memory for example."""


def _return_free_memory() -> None:
    """Give freed memory back to the system, so that it is not there to be used again unseen."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another libc: the peak can only look lower by what lies free


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _maximum_resident_bytes() -> int:
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value if sys.platform == "darwin" else value * 1024
