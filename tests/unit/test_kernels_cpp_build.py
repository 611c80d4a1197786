"""How the C++ kernels are built, kept and found; what goes wrong is a reason, no exception."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from seqdistill.errors import InputError
from seqdistill.kernels.cpp import CppRows, backend, cpp_status
from seqdistill.kernels.cpp.build import CACHE_VARIABLE, LEVELS
from seqdistill.kernels.cpp.library import LEVEL_VARIABLE, Library
from seqdistill.kernels.select import select_backend

# Stands in for a compiler: takes its arguments, counts its links and copies a library made before.
_COPYING_COMPILER = """\
#!/bin/sh
case "$*" in *--version*) echo "copying compiler $VERSION"; exit 0;; esac
for argument in "$@"; do
  [ "$previous" = -o ] && out=$argument
  previous=$argument
done
case "$*" in
  *-shared*) echo link >> {log}; sleep {seconds}; cp {library} "$out";;
  *) : > "$out";;
esac
"""


@pytest.fixture
def library() -> Library:
    """A library that was really compiled, before the other fixtures take the compilers away."""
    loaded = backend.load()
    if loaded.library is None:
        pytest.skip(loaded.reason)
    return loaded.library


def script(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def cache(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, no compiler, and nothing remembered of an earlier load."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    backend._load.cache_clear()
    yield folder
    backend._load.cache_clear()


@pytest.fixture
def compiler(
    library: Library, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], int]:
    """A compiler that copies; returns how often it has linked."""
    log = tmp_path / "log"
    text = _COPYING_COMPILER.format(log=log, seconds=0, library=library.build.path)
    monkeypatch.setenv("CXX", script(tmp_path / "copying", text))
    monkeypatch.setenv("PATH", os.defpath)
    # Not the machine's own compilers behind it.
    monkeypatch.setattr("seqdistill.kernels.cpp.build._FALLBACKS", ())
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def status_again() -> tuple[bool, str]:
    """What a new process would find."""
    backend._load.cache_clear()
    return cpp_status()


def libraries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.so"))


@pytest.mark.parametrize("compiler_variable", ["", "/no/such/compiler", "'unbalanced"])
def test_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch, compiler_variable: str) -> None:
    monkeypatch.setenv("CXX", compiler_variable)
    assert cpp_status() == (False, "no C++ compiler found (tried $CXX, c++, g++, clang++)")
    with pytest.raises(RuntimeError, match="not usable here: no C\\+\\+ compiler found"):
        CppRows()
    assert select_backend("auto", torch.device("cpu"), torch.float32).name == "eager"
    with pytest.raises(InputError, match="loss backend cpp cannot be used: no C\\+\\+ compiler"):
        select_backend("cpp", torch.device("cpu"), torch.float32)


def test_a_compiler_that_fails(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = script(
        tmp_path / "failing",
        '#!/bin/sh\n[ "$1" = --version ] && echo failing 1.0 && exit 0\n'
        'echo "some.h:1: note: hm" >&2\necho "some.h:2: error: no such thing" >&2\nexit 1\n',
    )
    monkeypatch.setenv("CXX", failing)
    available, reason = cpp_status()
    assert not available
    assert reason == f"{failing} failed: some.h:2: error: no such thing"
    assert libraries(cache) == []
    assert not list(cache.glob("*/*")), "the build's own files are left behind"


def test_another_compiler_is_tried_after_one_that_fails(
    tmp_path: Path, compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqdistill.kernels.cpp.build._FALLBACKS", (os.environ["CXX"],))
    monkeypatch.setenv("CXX", script(tmp_path / "failing", "#!/bin/sh\necho 1.0\nexit $#\n"))
    assert cpp_status()[0]
    assert compiler() == 1


def test_built_once_and_found_afterwards(compiler: Callable[[], int], cache: Path) -> None:
    available, reason = cpp_status()
    assert available
    assert " in 0." in reason
    assert str(cache) in reason
    assert compiler() == 1
    assert len(libraries(cache)) == 1
    available, reason = status_again()
    assert available
    assert "built with copying compiler" in reason
    assert " in 0." not in reason
    assert compiler() == 1
    assert cache.stat().st_mode & 0o077 == 0 or cache.parent.stat().st_mode & 0o077 == 0


def test_another_version_of_the_compiler_builds_again(
    compiler: Callable[[], int], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cpp_status()[0]
    monkeypatch.setenv("VERSION", "2")
    assert status_again()[0]
    assert compiler() == 2
    assert len(libraries(cache)) == 2


def test_without_a_compiler_what_an_earlier_one_built_is_used(
    compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cpp_status()[0]
    monkeypatch.setenv("CXX", "")
    available, reason = status_again()
    assert available, reason
    assert "a compiler that is gone" in reason


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_a_damaged_library_is_built_again(
    compiler: Callable[[], int], cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cpp_status()[0]
    (path,) = libraries(cache)
    whole = path.read_bytes()

    def spoil() -> None:
        content = bytearray(whole)
        content[len(content) // 2] ^= 0xFF
        # A new file: the old one is mapped into this process.
        path.unlink()
        path.write_bytes({"truncated": whole[:5000], "empty": b""}.get(damage, bytes(content)))

    spoil()
    assert status_again()[0]
    assert compiler() == 2
    assert libraries(cache) == [path]
    assert path.read_bytes() == whole
    spoil()
    monkeypatch.setenv("CXX", "")
    assert status_again() == (False, "no C++ compiler found (tried $CXX, c++, g++, clang++)")


def test_a_library_that_fails_its_check_is_not_used(
    compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "complaint", lambda rows: "the end2 kernel gives 1 instead of 2")
    available, reason = cpp_status()
    assert not available
    assert "fails its check, the end2 kernel gives 1 instead of 2: " in reason


def test_a_compiler_that_makes_something_else(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _COPYING_COMPILER.format(log="/dev/null", seconds=0, library="/bin/sh")
    monkeypatch.setenv("CXX", script(tmp_path / "liar", text))
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr("seqdistill.kernels.cpp.build._FALLBACKS", ())
    available, reason = cpp_status()
    assert not available
    assert "cannot be loaded" in reason
    assert libraries(cache) == []


def test_a_cache_that_cannot_be_written(
    compiler: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    available, reason = status_again()
    assert not available
    assert f"{CACHE_VARIABLE} names another folder" in reason


def test_without_openmp_one_thread_is_built(
    tmp_path: Path, compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    copying = os.environ["CXX"]
    monkeypatch.setenv(
        "CXX",
        script(
            tmp_path / "no-openmp",
            f'#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec {copying} "$@"\n',
        ),
    )
    assert cpp_status()[0]
    assert compiler() == 1


def test_two_processes_build_at_once(
    library: Library, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    text = _COPYING_COMPILER.format(log=log, seconds=2, library=library.build.path)
    monkeypatch.setenv("CXX", script(tmp_path / "slow", text))
    monkeypatch.setenv("PATH", os.defpath)
    code = "from seqdistill.kernels.cpp import cpp_status; print(*cpp_status())"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in running:
        printed, _ = process.communicate(timeout=300)
        assert printed.startswith("True "), printed
    assert len(libraries(cache)) == 1
    assert libraries(cache) == list(cache.glob("*/*")), "the builds' own files are left behind"


# --- instruction sets -----------------------------------------------------------------------


def test_a_lower_instruction_set_can_be_forced(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = library.levels[-1]
    for level in library.levels:
        monkeypatch.setenv(LEVEL_VARIABLE, level)
        loaded = backend.load()
        assert loaded.library is not None
        assert loaded.library.level == level
        assert cpp_status()[1].startswith(backend._LEVEL_NAMES[level])
    monkeypatch.delenv(LEVEL_VARIABLE)
    assert backend.load().library.level == best


def test_an_unknown_instruction_set_is_named(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "sse9")
    available, reason = cpp_status()
    assert not available
    assert "instruction set among baseline" in reason
    assert "'sse9'" in reason
    assert LEVEL_VARIABLE in reason


@pytest.mark.skipif("avx512" not in LEVELS, reason="not x86-64")
def test_the_processor_limits_the_instruction_set(library: Library) -> None:
    flags = Path("/proc/cpuinfo").read_text()
    expected = 1
    if "avx2" in flags and "fma" in flags:
        expected = 2
        if all(f"avx512{part}" in flags for part in ("f", "bw", "dq", "vl")):
            expected = 3
    assert library.levels == LEVELS[:expected]
