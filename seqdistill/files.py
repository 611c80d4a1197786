"""Files are written whole or not at all, and a folder by one process at a time."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from seqdistill.errors import InputError

#: Ends the names of files that are being written; the writer's process number comes before it.
PART = ".part"
#: In a folder that is written: says who writes it, and keeps others out.
LOCK = ".lock"

#: The disk, the quota, or the largest file that the process may write.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK = 1 << 22


@contextmanager
def atomic_write(
    path: str | Path, *, overwrite: bool = True, binary: bool = False
) -> Iterator[IO[Any]]:
    """Open ``path`` for writing so that it appears only when the block ends without an error.

    The text goes to ``path + ".part"`` first; a crash leaves that file and any old ``path`` alone.

    Args:
        path: the file to write; its folder is made if missing.
        overwrite: refuse with an :class:`InputError` when False and the file exists.
        binary: open for bytes instead of UTF-8 text.

    Example:
        >>> import tempfile, pathlib
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a" / "note.txt"
        >>> with atomic_write(target) as handle:
        ...     _ = handle.write("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; pass --overwrite to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb" if binary else "w", encoding=None if binary else "utf-8") as handle:
        yield handle
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)


def json_to_bytes(value: Any) -> bytes:
    """Return a value as the text of a JSON file."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: expected JSON, found something else ({error})") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when all of it is on the disk.

    Raises:
        InputError: the disk is full; nothing of the file is left.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with disk_errors(path, len(data)):
            with open(part, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn the errors of a full disk into an :class:`InputError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        needed = "" if size is None else f" ({size / 1e6:,.1f} MB)"
        raise InputError(
            f"{path}{needed} could not be written: {error.strerror}. Nothing of it is left; what "
            "was finished before is kept. Make room and repeat the same command: it goes on from "
            "there"
        ) from error


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half written."""
    for path in folder.glob(f"*{PART}"):
        path.unlink(missing_ok=True)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: there is no such file.
    """
    digest = hashlib.sha256()
    try:
        for block in _blocks(path):
            digest.update(block)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            yield block


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is missing, against other writers.

    Raises:
        InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise InputError(
                f"{folder}: process {handle.read().strip() or 'unknown'} is writing this folder; "
                "wait until it is done, or end it (what it finished is kept)"
            ) from error
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield
