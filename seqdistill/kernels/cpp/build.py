"""Compile the row kernels with whatever C++ compiler there is, once per source and compiler.

The library has a plain C interface and no header of torch or Python, so one build serves every
version of both. It holds the kernels of each instruction set and chooses when it runs: a cache on
a shared disk serves machines that differ.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from seqdistill.numerics.exp_gamma import polynomials

#: The folder for compiled kernels; ``~/.cache/seqdistill/kernels`` (XDG_CACHE_HOME) by default.
CACHE_VARIABLE = "SEQDISTILL_KERNEL_CACHE"

_FOLDER = Path(__file__).parent
_SOURCES = (
    "library.cpp", "rows.cpp", "rows.h", "losses.h", "members.h", "mixture.h", "uncertainty.h",
    "softmax.h", "dirichlet.h", "vector.h",
)  # fmt: skip

# No -ffast-math: it lets sums be taken in another order, and EPKL loses half its digits.
_FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-Wno-psabi",
)  # fmt: skip
_LEVEL_FLAGS: dict[str, tuple[str, ...]] = {"baseline": ()}
if platform.machine().lower() in ("x86_64", "amd64"):
    _LEVEL_FLAGS |= {
        "avx2": ("-mavx2", "-mfma"),
        "avx512": (
            "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512",
        ),
    }  # fmt: skip

#: Instruction sets of this build, lowest first; their index is what the library calls a level.
LEVELS = tuple(_LEVEL_FLAGS)

# Tried after $CXX.
_FALLBACKS = ("c++", "g++", "clang++")

# A build takes seconds; on a machine with everything busy, a minute.
_TIMEOUT_SECONDS = 600


class BuildError(Exception):
    """The kernels cannot be compiled here; says why."""


@dataclass(frozen=True)
class Build:
    """A compiled library.

    Attributes:
        path: the file.
        compiler: what it was compiled with, as ``--version`` says; "" if that is not known.
        seconds: that it took; None when it was found in the cache.
    """

    path: Path
    compiler: str
    seconds: float | None


def cache_folder() -> Path:
    """Return the folder of compiled kernels; it need not exist.

    Raises:
        BuildError: none is chosen and there is no home folder.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "seqdistill" / "kernels"
    except RuntimeError as error:
        raise BuildError(f"no home folder for the build; set {CACHE_VARIABLE}") from error


def build() -> Build:
    """Return the library: from the cache, or compiled now.

    A cached file whose content is not what was written is removed and compiled again. Without a
    compiler, any library of this source that an earlier compiler left is taken.

    Raises:
        BuildError: no compiler, or none that compiles this.
        OSError: the cache folder cannot be written.
    """
    coefficients = _coefficients()
    folder = cache_folder() / _key(coefficients)
    failures = []
    for command, version in _compilers():
        label = hashlib.sha256(version.encode()).hexdigest()[:8]
        for path in _intact(folder, label):
            return Build(path, version, None)
        started = time.perf_counter()
        try:
            path = _compile(command, coefficients, folder, label)
        except BuildError as error:
            failures.append(str(error))
            continue
        return Build(path, version, time.perf_counter() - started)
    for path in _intact(folder, "*"):
        return Build(path, "", None)
    raise BuildError("; ".join(failures) or "no C++ compiler found (tried $CXX, c++, g++, clang++)")


def _compilers() -> Iterator[tuple[list[str], str]]:
    """Yield each compiler's command and version, those that do not answer left out."""
    seen = set()
    for name in (os.environ.get("CXX", ""), *_FALLBACKS):
        try:
            command = shlex.split(name)
        except ValueError:
            continue
        found = shutil.which(command[0]) if command else None
        if found is None or (key := (os.path.realpath(found), *command[1:])) in seen:
            continue
        seen.add(key)
        command[0] = found
        try:
            answer = subprocess.run(
                [*command, "--version"], capture_output=True, text=True, timeout=60, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.strip():
            yield command, answer.strip().splitlines()[0]


def _coefficients() -> str:
    """Return the header with the fits of :mod:`seqdistill.numerics.exp_gamma`: one source."""
    lines = ["// Generated from seqdistill.numerics.exp_gamma; lowest power first.", "#pragma once"]
    for dtype, kind in ((torch.float32, "float"), (torch.float64, "double")):
        for name, values in zip("QRC", polynomials(dtype), strict=True):
            # C(0) = 0, and the kernels take out a factor s instead.
            kept = values[1:] if name == "C" else values
            numbers = ", ".join(f"({kind}){value!r}" for value in kept)
            lines.append(f"constexpr {kind} {name}_{kind.upper()}[] = {{{numbers}}};")
    return "\n".join(lines) + "\n"


def _key(coefficients: str) -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((_FOLDER / name).read_bytes())
    system = (platform.system(), platform.machine())
    for part in (coefficients, repr(_FLAGS), repr(_LEVEL_FLAGS), repr(system)):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _intact(folder: Path, label: str) -> Iterator[Path]:
    """Yield the cached libraries whose content is what their name says; remove the others.

    Loading a truncated library would end the process, so it is read before it is loaded.
    """
    for path in sorted(folder.glob(f"rows-{label}-*.so")):
        try:
            if path.stem.rpartition("-")[2] == _content_name(path.read_bytes()):
                yield path
            else:
                path.unlink(missing_ok=True)
        except OSError:
            continue


def _content_name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _compile(command: list[str], coefficients: str, folder: Path, label: str) -> Path:
    """Compile and link in a folder of its own, then give the library its name in one step."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
        work = Path(scratch)
        (work / "coefficients.h").write_text(coefficients, encoding="utf-8")
        common = [*command, *_FLAGS, f"-I{work}", f"-I{_FOLDER}"]
        objects = {level: work / f"{level}.o" for level in LEVELS}
        _run_together(
            [
                [*common, *_LEVEL_FLAGS[level], "-c", str(_FOLDER / "rows.cpp"), "-o", str(path)]
                for level, path in objects.items()
            ],
            work,
        )
        link = [*common, "-shared", str(_FOLDER / "library.cpp"), *map(str, objects.values())]
        library = work / "rows.so"
        try:
            _link([*link, "-fopenmp"], library, work)
        except BuildError:
            # Compilers without OpenMP, or without its library, exist; one thread is not nothing.
            library = work / "rows-one-thread.so"
            _link(link, library, work)
        path = folder / f"rows-{label}-{_content_name(library.read_bytes())}.so"
        os.replace(library, path)
    return path


def _link(command: list[str], library: Path, work: Path) -> None:
    _run_together([[*command, "-o", str(library)]], work)
    try:
        # A shared library may be linked although something that it needs is nowhere.
        ctypes.CDLL(str(library))
    except OSError as error:
        raise BuildError(f"what {command[0]} built cannot be loaded: {error}") from error


def _run_together(commands: list[list[str]], work: Path) -> None:
    """Run compilers side by side.

    Raises:
        BuildError: one fails; holds its first complaint.
    """
    running = []
    try:
        for index, command in enumerate(commands):
            log = work / f"log-{index}"
            with open(log, "wb") as handle:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=handle, stderr=handle, cwd=work
                )
            running.append((process, log))
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        for process, log in running:
            status = process.wait(max(0.0, deadline - time.monotonic()))
            if status != 0:
                raise BuildError(f"{commands[0][0]} failed: {_complaint(log, status)}")
    except OSError as error:
        raise BuildError(f"{commands[0][0]} failed: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{commands[0][0]} took more than {_TIMEOUT_SECONDS} s") from error
    finally:
        for process, _ in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def _complaint(log: Path, status: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if "error" in line.lower()] or lines
    return errors[0][:200] if errors else f"exit status {status}"
