"""``python -m recipes.librispeech.download FOLDER --yes``: LibriSpeech from OpenSLR.

Nothing is downloaded without ``--yes``: without it the command says what it would get, how large it
is and whether the disk has room. What is there is left alone; what broke off goes on.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.common.config import unknown
from recipes.common.download import RemoteFile, byte_bar, bytes_of, check_space, download, gigabytes
from recipes.common.unpack import unpack
from seqdistill.errors import InputError
from seqdistill.files import PART, locked

SERVER = "https://www.openslr.org/resources/12"

CORPUS = "LibriSpeech"
"""The folder in every archive; the splits are in it."""

UNPACKED = 1.1
"""Bytes on the disk by bytes of an archive: audio is compressed already; files fill blocks."""


@dataclass(frozen=True)
class Split:
    """One archive of LibriSpeech.

    Attributes:
        hours: of speech (Panayotov et al. 2015, table 1).
        size: bytes of the archive.
        sha256: of the archive, as in torchaudio's ``datasets/librispeech.py``.
    """

    hours: float
    size: int
    sha256: str


SPLITS = {
    "dev-clean": Split(
        5.4, 337_926_286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"
    ),
    "dev-other": Split(
        5.3, 314_305_928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"
    ),
    "test-clean": Split(
        5.4, 346_663_984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"
    ),
    "test-other": Split(
        5.1, 328_757_843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"
    ),
    "train-clean-100": Split(
        100.6, 6_387_309_499, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"
    ),
    "train-clean-360": Split(
        363.6, 23_049_477_885, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"
    ),
    "train-other-500": Split(
        496.7, 30_593_501_606, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"
    ),
}


def remote_file(name: str, split: Split, server: str = SERVER) -> RemoteFile:
    """Return where a split's archive is."""
    return RemoteFile(f"{server.rstrip('/')}/{name}.tar.gz", split.size, split.sha256)


def split_folder(folder: Path, name: str) -> Path:
    """Return where a split is once it is unpacked."""
    return folder / CORPUS / name


def space_needed(folder: Path, splits: dict[str, Split], *, keep_archives: bool) -> int:
    """Return how many bytes more the disk needs while splits are downloaded one after another.

    An archive and what is unpacked from it are there together for a while; then the archive goes,
    unless it is to be kept.
    """
    most, settled = 0, 0
    for name, split in splits.items():
        archive = folder / f"{name}.tar.gz"
        there = max(bytes_of(archive), bytes_of(archive.with_name(archive.name + PART)))
        missing, unpacked = max(split.size - there, 0), round(split.size * UNPACKED)
        most = max(most, settled + missing + unpacked)
        settled += unpacked + (missing if keep_archives else 0)
    return most


def get(
    folder: Path, splits: dict[str, Split], *, server: str = SERVER, keep_archives: bool = False
) -> None:
    """Download and unpack splits that are not there, one after another.

    Raises:
        InputError: see :func:`~recipes.common.download.download` and
            :func:`~recipes.common.unpack.unpack`; or the disk is too small; or another process is
            at work in the folder.
    """
    with locked(folder):
        check_space(folder, space_needed(folder, splits, keep_archives=keep_archives))
        for name, split in splits.items():
            archive = download(remote_file(name, split, server), folder, bars=byte_bar)
            unpack(archive, f"{CORPUS}/{name}", folder, bars=byte_bar)
            if not keep_archives:
                archive.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for a failure, 2 without ``--yes``."""
    given = _parser().parse_args(arguments)
    folder = Path(given.folder).expanduser()
    try:
        for name in given.splits:
            if name not in SPLITS:
                raise unknown("split", name, list(SPLITS), "--splits")
        missing = {
            name: SPLITS[name] for name in given.splits if not split_folder(folder, name).exists()
        }
        if not missing:
            print(f"{folder / CORPUS} has {', '.join(given.splits)}; nothing to download")
            return 0
        for name, split in missing.items():
            print(f"{name:16} {split.hours:6.1f} h {gigabytes(split.size):>9}")
        needed = space_needed(folder, missing, keep_archives=given.keep_archives)
        size, hours = (sum(getattr(s, n) for s in missing.values()) for n in ("size", "hours"))
        print(f"{'together':16} {hours:6.1f} h {gigabytes(size):>9}, from {given.server}")
        print(
            f"{gigabytes(needed)} more are needed in {folder} while they are unpacked", flush=True
        )
        check_space(folder, needed)
        if not given.yes:
            print("nothing was downloaded; the same command with --yes does it", file=sys.stderr)
            return 2
        get(folder, missing, server=given.server, keep_archives=given.keep_archives)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{folder / CORPUS} has {', '.join(given.splits)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.librispeech.download",
        description="Download LibriSpeech (CC BY 4.0) from OpenSLR, check it and unpack it.",
        epilog="example: python -m recipes.librispeech.download /data/librispeech "
        "--splits dev-clean test-clean --yes",
    )
    parser.add_argument("folder", metavar="FOLDER", help=f"where the folder {CORPUS} goes")
    parser.add_argument(
        "--splits", nargs="+", default=list(SPLITS), metavar="NAME",
        help=f"which: {', '.join(SPLITS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do it; without it: only say what")
    parser.add_argument(
        "--keep-archives", action="store_true", help="do not remove an archive once it is unpacked"
    )
    parser.add_argument(
        "--server", default=SERVER, metavar="URL",
        help="the address before /NAME.tar.gz; openslr.org lists mirrors (default: %(default)s)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
