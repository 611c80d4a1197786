"""A record of downloads: what nobody vouches for is noted once and has to stay the same ever after.

A folder of downloads has a file ``checksums.json``: of every archive its address, size and SHA-256,
and of every file that was unpacked its SHA-256. Where a checksum is published, it is compared with
that; where none is, the first download's is what all later ones are compared with.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.download import RemoteFile
from seqdistill.errors import InputError
from seqdistill.files import json_to_bytes, read_json, sha256_of_file, write_whole

SCHEMA = "seqdistill.checksums/1"
NAME = "checksums.json"


@dataclass(frozen=True)
class Entry:
    """What is known of an archive.

    Attributes:
        url: where it came from.
        size: bytes.
        sha256: of its content; None: its download has not ended yet.
        published: whether others say so too; else it is the first download's.
        files: SHA-256 of the files that were unpacked from it, by path.
    """

    url: str
    size: int
    sha256: str | None = None
    published: bool = False
    files: dict[str, str] = field(default_factory=dict)


class Checksums:
    """The record in a folder of downloads.

    Args:
        folder: of the downloads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / NAME

    def read(self) -> dict[str, Entry]:
        """Return what is known, by archive.

        Raises:
            InputError: the file is damaged.
        """
        if not self.path.is_file():
            return {}
        content = read_json(self.path)
        try:
            if content["schema"] != SCHEMA:
                raise KeyError(SCHEMA)
            return {name: Entry(**entry) for name, entry in content["archives"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path}: expected a record of checksums ({SCHEMA}), found something else; "
                "restore it from a copy: without it nothing says what the first download was"
            ) from error

    def note(self, name: str, entry: Entry) -> None:
        """Write down what is known of an archive."""
        entries = {**self.read(), name: entry}
        content = {"schema": SCHEMA, "archives": {k: asdict(v) for k, v in entries.items()}}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json_to_bytes(content))

    def expected(self, file: RemoteFile) -> RemoteFile:
        """Return a file with the SHA-256 that it has to have: the published, else the noted one.

        Raises:
            InputError: size or checksum were noted and are not those of ``file``.
        """
        noted = self.read().get(file.name)
        if noted is None:
            return file
        clash = noted.size != file.size or (
            None not in (noted.sha256, file.sha256) and noted.sha256 != file.sha256
        )
        if clash:
            raise InputError(
                f"{file.url}: {self.path} has {file.name} with {noted.size:,} bytes, SHA-256 "
                f"{noted.sha256}; expected now are {file.size:,} bytes, SHA-256 {file.sha256}. "
                "The server has another file than at the first download; name another server"
            )
        return RemoteFile(file.url, file.size, file.sha256 or noted.sha256)

    def changed(self) -> list[str]:
        """Return the unpacked files that are missing or not what they were, with the reason."""
        problems = []
        for name, sha256 in self.files().items():
            path = self.folder / name
            if not path.is_file():
                problems.append(f"{path}: missing")
            elif sha256_of_file(path) != sha256:
                problems.append(f"{path}: not what was unpacked")
        return problems

    def files(self) -> Mapping[str, Any]:
        """Return the SHA-256 of every unpacked file by its path in the folder."""
        return {name: sha for entry in self.read().values() for name, sha in entry.files.items()}
