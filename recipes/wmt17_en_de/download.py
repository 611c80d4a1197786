"""``python -m recipes.wmt17_en_de.download FOLDER --yes``: the data of the WMT17 news task.

Nothing is downloaded without ``--yes``: without it the command says what it would get, how large it
is and whether the disk has room. What is there is left alone; what broke off goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from recipes.common.checksums import Checksums, Entry
from recipes.common.config import unknown
from recipes.common.download import (
    RemoteFile,
    byte_bar,
    bytes_of,
    check_space,
    download,
    gigabytes,
    remote_size,
)
from recipes.common.unpack import unpack_files
from recipes.wmt17_en_de.archives import ARCHIVES, Archive
from seqdistill.errors import InputError
from seqdistill.files import PART, locked, sha256_of_file

_UNKNOWN_SIZE = 10_000_000
"""Bytes that are allowed for an archive whose size nobody has published."""


def space_needed(folder: Path, archives: Mapping[str, Archive], *, keep_archives: bool) -> int:
    """Return how many bytes more the disk needs while archives are got one after another."""
    most, settled = 0, 0
    for archive in archives.values():
        path, size = folder / archive.name, archive.size or _UNKNOWN_SIZE
        there = max(bytes_of(path), bytes_of(path.with_name(path.name + PART)))
        missing = max(size - there, 0)
        # Only what is wanted of an archive is written.
        most = max(most, settled + missing + archive.unpacked)
        settled += archive.unpacked + (missing if keep_archives else 0)
    return most


def get(
    folder: Path,
    archives: Mapping[str, Archive],
    *,
    keep_archives: bool = False,
    servers: Mapping[str, str] | None = None,
) -> None:
    """Download and unpack archives that are not there, one after another.

    Args:
        folder: where they go, a folder each.
        archives: which.
        keep_archives: do not remove an archive once it is unpacked.
        servers: other addresses: name of an archive → address of its file.

    Raises:
        InputError: see :func:`~recipes.common.download.download` and
            :func:`~recipes.common.unpack.unpack_files`; or an archive is not the one of the first
            download; or the disk is too small; or another process is at work in the folder.
    """
    with locked(folder):
        check_space(folder, space_needed(folder, archives, keep_archives=keep_archives))
        record = Checksums(folder)
        for name, archive in archives.items():
            url = (servers or {}).get(name, archive.url)
            path = _fetch(folder, archive, url, record)
            entry = record.read()[path.name]
            made = unpack_files(path, archive.files, folder / name, bars=byte_bar)
            files = {f"{name}/{one.name}": sha256_of_file(one) for one in sorted(made.iterdir())}
            record.note(
                path.name, Entry(entry.url, entry.size, entry.sha256, entry.published, files)
            )
            if not keep_archives:
                path.unlink()


def _fetch(folder: Path, archive: Archive, url: str, record: Checksums) -> Path:
    """Download one archive, compare it with what is known of it, and note what was not."""
    noted = record.read().get(archive.name)
    size = archive.size or (noted.size if noted else remote_size(url))
    file = record.expected(RemoteFile(url, size, archive.sha256))
    published = archive.sha256 is not None
    if noted is None:
        # Before it comes: what goes on after an interruption has to be the same file.
        record.note(file.name, Entry(url, size, archive.sha256, published))
    path = download(file, folder, bars=byte_bar)
    if file.sha256 is None:
        found = sha256_of_file(path)
        record.note(file.name, Entry(url, size, found))
        print(f"{path.name}: SHA-256 {found}, noted in {record.path} (none is published)")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for a failure, 2 without ``--yes``."""
    given = _parser().parse_args(arguments)
    folder = Path(given.folder).expanduser()
    try:
        if given.check:
            return _check(folder)
        for name in given.only:
            if name not in ARCHIVES:
                raise unknown("archive", name, list(ARCHIVES), "--only")
        missing = {name: ARCHIVES[name] for name in given.only if not (folder / name).exists()}
        if not missing:
            print(f"{folder} has {', '.join(given.only)}; nothing to download")
            return 0
        for name, archive in missing.items():
            size = "size unknown" if archive.size is None else gigabytes(archive.size)
            print(f"{name:20} {size:>12}  {archive.title}, {archive.url}")
        total = sum(archive.size or 0 for archive in missing.values())
        needed = space_needed(folder, missing, keep_archives=given.keep_archives)
        print(f"{'together':20} {gigabytes(total):>12}")
        print(f"{gigabytes(needed)} more are needed in {folder}", flush=True)
        check_space(folder, needed)
        if not given.yes:
            print("nothing was downloaded; the same command with --yes does it", file=sys.stderr)
            return 2
        servers = dict(_server(text) for text in given.server)
        get(folder, missing, keep_archives=given.keep_archives, servers=servers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{folder} has {', '.join(given.only)}")
    return 0


def _check(folder: Path) -> int:
    """Compare every unpacked file with the record."""
    record = Checksums(folder)
    files, problems = record.files(), record.changed()
    if not files:
        raise InputError(f"{record.path}: expected the record of a download, found none")
    for problem in problems:
        print(f"error: {problem}; remove its folder and download it again", file=sys.stderr)
    print(f"{len(files) - len(problems)} of {len(files)} files in {folder} are as unpacked")
    return 1 if problems else 0


def _server(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not equals or not url:
        raise InputError(f"--server expects NAME=URL, got {text!r}")
    if name not in ARCHIVES:
        raise unknown("archive", name, list(ARCHIVES), "--server")
    if url.rpartition("/")[2] != ARCHIVES[name].name:
        raise InputError(f"--server {text}: expected the address of a file {ARCHIVES[name].name}")
    return name, url


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.wmt17_en_de.download",
        description="Download the data of the WMT17 news task, check it and unpack it.",
        epilog="example: python -m recipes.wmt17_en_de.download /data/wmt17 --yes",
    )
    parser.add_argument("folder", metavar="FOLDER", help="where a folder an archive goes")
    parser.add_argument(
        "--only", nargs="+", default=list(ARCHIVES), metavar="NAME",
        help=f"which: {', '.join(ARCHIVES)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do it; without it: only say what")
    parser.add_argument(
        "--keep-archives", action="store_true", help="do not remove an archive once it is unpacked"
    )
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME=URL",
        help="another address of an archive's file, again and again",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="only compare what is there with what was unpacked"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
