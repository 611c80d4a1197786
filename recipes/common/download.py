"""Download large files: resumed where they broke off, checked, and there whole or not at all.

What has come so far is in ``NAME.part``. The next try asks the server for the rest (HTTP Range); a
server that sends everything again is let do so.
"""

import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from seqdistill.errors import InputError
from seqdistill.files import PART, disk_errors, sha256_of_file, sync_folder

TRIES = 5
"""How often in a row a download may break off without a byte of progress."""

_BLOCK = 1 << 20
_SECONDS_BETWEEN_TRIES = 5.0
_TIMEOUT_SECONDS = 60.0


class Bar(Protocol):
    """The part of a progress bar that is used here; tqdm's is one."""

    def update(self, n: int) -> object:
        """Go on by ``n`` bytes."""


Bars = Callable[[str, int, int], AbstractContextManager[Bar]]
"""From what is done, its bytes in all and those done before to a progress bar."""


def byte_bar(what: str, total: int, done: int) -> "tqdm[None]":
    """Return a bar on stderr, or nothing to look at where that is no terminal."""
    return tqdm(
        desc=what, total=total, initial=done, unit="B", unit_scale=True, file=sys.stderr,
        disable=None,
    )  # fmt: skip


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        url: where it is.
        size: bytes.
        sha256: of its content, in hexadecimal digits; None: nobody has said, so only the size is
            checked (see :mod:`recipes.common.checksums`).
    """

    url: str
    size: int
    sha256: str | None

    @property
    def name(self) -> str:
        """What it is called here."""
        return self.url.rpartition("/")[2]


class _BrokenError(Exception):
    """A transfer that ended too early and may be tried again."""


def download(
    file: RemoteFile,
    folder: Path,
    *,
    bars: Bars,
    tries: int = TRIES,
    wait: float = _SECONDS_BETWEEN_TRIES,
    timeout: float = _TIMEOUT_SECONDS,
) -> Path:
    """Download a file, or the rest of it; a file that is there already is only checked.

    Args:
        file: what to get.
        folder: where it goes; made if missing.
        bars: makes a progress bar.
        tries: how often in a row it may break off without a byte of progress.
        wait: seconds between two tries.
        timeout: seconds that the server may be silent.

    Returns:
        The path of the complete file with the right content.

    Raises:
        InputError: the server does not have it or has another one, the connection breaks again and
            again, the disk is full, or the content is wrong (the file is then kept under another
            name).
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / file.name, folder / (file.name + PART)
    if not path.exists():
        fruitless = 0
        while (done := bytes_of(part)) < file.size:
            try:
                with bars(f"download {file.name}", file.size, done) as bar:
                    _transfer(file, part, done, bar, timeout)
            except _BrokenError as error:
                fruitless = 0 if bytes_of(part) > done else fruitless + 1
                if fruitless >= tries:
                    raise InputError(
                        f"{file.url}: {error}, {tries} times in a row. {bytes_of(part):,} "
                        f"of {file.size:,} bytes are in {part}; the same command goes on from there"
                    ) from error
                time.sleep(wait)
        # Under its own name only what is complete; a file that is too long is wrong, too.
        part.replace(path)
        sync_folder(folder)
    _check(file, path)
    return path


def remote_size(url: str, *, timeout: float = _TIMEOUT_SECONDS) -> int:
    """Ask a server how large a file is; none of it is downloaded.

    Raises:
        InputError: the server cannot be reached, does not have it or does not say.
    """
    headers = {"User-Agent": "seqdistill", "Range": "bytes=0-0"}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            whole = response.headers.get("Content-Range", "").rpartition("/")[2]
            size = whole if response.status == 206 else response.headers.get("Content-Length", "")
    except urllib.error.HTTPError as error:
        raise InputError(
            f"{url}: expected a file, the server says {error.code} {error.reason}; name another "
            "server"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
        raise InputError(f"{url}: no connection ({e}); the same command tries again") from e
    if not size.isdigit():
        raise InputError(f"{url}: the server does not say how large it is; name another server")
    return int(size)


def bytes_of(path: Path) -> int:
    """Return the size of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def check_space(folder: Path, needed: int, free: int | None = None) -> None:
    """Check, before anything starts, that the disk has room.

    Args:
        folder: where the files go; it may not exist yet.
        needed: bytes.
        free: bytes that are free; None: what the disk says.

    Raises:
        InputError: there is too little room.
    """
    if free is None:
        there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"{folder}: {gigabytes(needed)} are needed, {gigabytes(free)} are free; nothing was "
            "started. Make room or choose another folder"
        )


def gigabytes(size: int) -> str:
    """Write a number of bytes for people.

    Example:
        >>> gigabytes(61_357_943_031)
        '61.4 GB'
    """
    return f"{size / 1e9:.1f} GB"


def _transfer(file: RemoteFile, part: Path, done: int, bar: Bar, timeout: float) -> None:
    """Get what is missing, once; whatever came stays in ``part``."""
    request = urllib.request.Request(file.url, headers={"User-Agent": "seqdistill"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            start = _start(file, response, done)
            if start != done:
                bar.update(-done)
            with disk_errors(part, file.size), open(part, "ab" if start else "wb") as handle:
                while block := response.read(_BLOCK):
                    handle.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        # 5xx is the server's trouble and may pass, as are 408 and 429 (too slow, too many); other
        # codes are about the address.
        if error.code < 500 and error.code not in (408, 429):
            raise InputError(
                f"{file.url}: expected a file, the server says {error.code} {error.reason}; name "
                "another server"
            ) from error
        raise _BrokenError(f"the server says {error.code} {error.reason}") from error
    except http.client.IncompleteRead as error:
        raise _BrokenError("the connection broke off") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
        raise _BrokenError(f"no connection ({e})") from e
    # urllib says nothing when a body without a length, or one read in blocks, ends early.
    if bytes_of(part) < file.size:
        raise _BrokenError("the connection broke off")


def _start(file: RemoteFile, response: http.client.HTTPResponse, done: int) -> int:
    """Return the byte that the answer begins with, after a look at the size that it promises."""
    start, size = 0, response.headers.get("Content-Length")
    if response.status == 206:
        # bytes FIRST-LAST/SIZE
        unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
        span, _, size = rest.partition("/")
        first = span.partition("-")[0]
        if unit != "bytes" or first != str(done):
            raise InputError(
                f"{file.url}: expected the bytes from {done:,} on, the server sends "
                f"{response.headers.get('Content-Range')!r}; name another server"
            )
        start = done
    if size is not None and size.isdigit() and int(size) != file.size:
        raise InputError(
            f"{file.url}: expected a file of {file.size:,} bytes, the server has one of "
            f"{int(size):,}; name another server"
        )
    return start


def _check(file: RemoteFile, path: Path) -> None:
    if file.sha256 is None and bytes_of(path) == file.size:
        return
    found = sha256_of_file(path)
    if found == file.sha256:
        return
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    path.replace(aside)
    expected = f"of SHA-256 {file.sha256}" if file.sha256 else f"of {file.size:,} bytes"
    raise InputError(
        f"{file.url}: expected content {expected}, got SHA-256 {found}. It is kept as "
        f"{aside} ({bytes_of(aside):,} bytes of {file.size:,}); the same command starts afresh. If "
        "that ends alike, name another server"
    )
