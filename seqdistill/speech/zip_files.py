"""Uncompressed zips that are put together from parts: what Python's zipfile cannot go on with.

A part is a run of entries, each a local header and its bytes, so that parts are joined by joining
their bytes; the directory at the end is written last. Sizes of 64 bits (ZIP64) are used where the
offsets or the number of entries ask for them.

Source: PKWARE's APPNOTE.TXT 6.3.9, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

_VERSION = 20
_VERSION_64 = 45
_UTF_8 = 1 << 11
#: 1980-01-01, the earliest there is: the same features make the same file.
_TIME, _DATE = 0, 1 << 5 | 1
_LARGEST_32, _LARGEST_16 = 0xFFFFFFFF, 0xFFFF


@dataclass(frozen=True)
class Entry:
    """One file of a zip.

    Attributes:
        name: of the file.
        crc: CRC-32 of its bytes.
        size: how many bytes, less than 4 GiB.
        offset: of its local header.
    """

    name: str
    crc: int
    size: int
    offset: int

    @property
    def data_offset(self) -> int:
        """Where its bytes begin."""
        return self.offset + header_length(self.name)


def header_length(name: str) -> int:
    """Return the length of a local header in bytes."""
    return 30 + len(name.encode())


def directory_length(name: str) -> int:
    """Return the length of a file's row in the directory, without ZIP64's 12 bytes."""
    return 46 + len(name.encode())


def local_header(name: str, data: bytes) -> bytes:
    """Return what stands before an entry's bytes."""
    encoded = name.encode()
    crc, size = zlib.crc32(data), len(data)
    head = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", _VERSION, _UTF_8, 0, _TIME, _DATE, crc, size, size,
        len(encoded), 0,
    )  # fmt: skip
    return head + encoded


def directory(entries: Iterable[Entry], offset: int) -> bytes:
    """Return the end of a zip: the directory of its entries and what leads to it.

    Args:
        entries: in their order.
        offset: where the directory begins: the bytes of all entries.
    """
    rows = [_directory_row(entry) for entry in entries]
    body = b"".join(rows)
    end_64 = b""
    if len(rows) >= _LARGEST_16 or len(body) >= _LARGEST_32 or offset >= _LARGEST_32:
        end_64 = struct.pack(
            "<4sQHHIIQQQQ", b"PK\6\6", 44, _VERSION_64, _VERSION_64, 0, 0, len(rows), len(rows),
            len(body), offset,
        ) + struct.pack("<4sIQI", b"PK\6\7", 0, offset + len(body), 1)  # fmt: skip
    count = min(len(rows), _LARGEST_16)
    end = struct.pack(
        "<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, min(len(body), _LARGEST_32),
        min(offset, _LARGEST_32), 0,
    )  # fmt: skip
    return body + end_64 + end


def _directory_row(entry: Entry) -> bytes:
    encoded = entry.name.encode()
    extra, version, offset = b"", _VERSION, entry.offset
    if offset >= _LARGEST_32:
        extra = struct.pack("<HHQ", 1, 8, offset)
        version, offset = _VERSION_64, _LARGEST_32
    head = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\1\2", version, version, _UTF_8, 0, _TIME, _DATE, entry.crc,
        entry.size, entry.size, len(encoded), len(extra), 0, 0, 0, 0, offset,
    )  # fmt: skip
    return head + encoded + extra
