"""Files are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from seqdistill.errors import InputError


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
