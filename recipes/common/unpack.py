"""Unpack an archive so that its folder is whole or not there, and nothing lands outside it."""

import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

from recipes.common.download import Bars
from seqdistill.errors import InputError
from seqdistill.files import disk_errors

_COPY = 1 << 20


def unpack(archive: Path, wanted: str, folder: Path, *, bars: Bars) -> Path:
    """Unpack a tar archive, compressed or not.

    Everything goes to ``.unpacking-NAME`` first; what a killed process left there is removed.

    Args:
        archive: the file.
        wanted: the folder in it that is wanted, ``LibriSpeech/dev-clean``. It must not be in
            ``folder`` yet; other files of the archive (a licence, say) come along where they are
            not there.
        folder: where it goes.
        bars: makes a progress bar; its steps are bytes of the archive.

    Returns:
        ``folder / wanted``.

    Raises:
        InputError: the archive is damaged, lacks that folder or holds something else than files and
            folders at places of its own; or the disk is full. Nothing of it is then left.
    """
    target, made = folder / wanted, folder / f".unpacking-{archive.name}"
    if target.exists():
        raise InputError(f"{target} is there already; remove it to unpack {archive} once more")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        size = archive.stat().st_size
        title = f"unpack {archive.name}"
        with disk_errors(target), open(archive, "rb") as handle, bars(title, size, 0) as bar:
            _extract(archive, handle, made, bar.update)
        if not (made / wanted).is_dir():
            raise InputError(f"{archive}: expected a folder {wanted} in it, found none")
        # The wanted folder last: where it is, all is.
        others = (path for path in made.rglob("*") if path.is_file())
        for path in [path for path in others if not path.is_relative_to(made / wanted)]:
            place = folder / path.relative_to(made)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        (made / wanted).replace(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def unpack_files(archive: Path, wanted: Mapping[str, str], folder: Path, *, bars: Bars) -> Path:
    """Unpack some files of a tar archive into a folder of their own; the folder is whole or not.

    Args:
        archive: the file.
        wanted: name here → name in the archive, in which ``*`` stands for any part; exactly one
            file has to match each.
        folder: where they go; it must not be there yet.
        bars: makes a progress bar; its steps are bytes of the archive.

    Raises:
        InputError: the folder is there already; the archive is damaged, lacks one of them or has
            two; or the disk is full. Nothing of it is then left.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already; remove it to unpack {archive} once more")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".unpacking-{folder.name}")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        size = archive.stat().st_size
        with (
            disk_errors(folder),
            open(archive, "rb") as handle,
            bars(f"unpack {archive.name}", size, 0) as bar,
        ):
            _extract(archive, handle, made / "all", bar.update, tuple(wanted.values()))
        (made / "chosen").mkdir()
        found = [path for path in (made / "all").rglob("*") if path.is_file()]
        for name, pattern in wanted.items():
            matching = [p for p in found if _matches(p.relative_to(made / "all"), pattern)]
            if len(matching) != 1:
                raise InputError(
                    f"{archive}: expected one file {pattern} in it, found {len(matching)}"
                )
            matching[0].replace(made / "chosen" / name)
        (made / "chosen").replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _matches(path: PurePath, pattern: str) -> bool:
    return fnmatchcase(path.as_posix(), pattern)


def _extract(
    archive: Path,
    handle: IO[bytes],
    made: Path,
    on: Callable[[int], object],
    only: Sequence[str] | None = None,
) -> None:
    done = 0
    try:
        with tarfile.open(fileobj=handle, mode="r:*") as tar:
            for member in tar:
                # "./a" and "a" are one name.
                name = PurePosixPath(member.name)
                if only is None or any(_matches(name, pattern) for pattern in only):
                    _write(archive, tar, member, made)
                on(handle.tell() - done)
                done = handle.tell()
        on(archive.stat().st_size - done)  # what follows the last file, and padding
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        what = str(error).splitlines()[0]  # tarfile lists every compression that it tried
        raise InputError(f"{archive}: damaged ({what}); download it again") from error
    except OSError as error:
        # What gzip says of bytes that are wrong has no number; the disk's own errors have one.
        clash = isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError)
        if error.errno is not None and not clash:
            raise
        raise InputError(f"{archive}: damaged ({error}); download it again") from error


def _write(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, made: Path) -> None:
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        raise InputError(f"{archive}: refused, since {member.name} in it leads outside its folder")
    if member.isdir():
        made.joinpath(*place.parts).mkdir(parents=True, exist_ok=True)
        return
    source = tar.extractfile(member) if member.isreg() else None
    if source is None:
        raise InputError(
            f"{archive}: refused, since {member.name} in it is no file and no folder (links can "
            "lead outside its folder)"
        )
    path = made.joinpath(*place.parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, _COPY)
