"""A set's features in one zip, joined from its shards; each shard is removed once it is in.

So the disk holds all features once, and one shard twice. After each shard a note says how far the
zip is whole; a killed run cuts what is behind that and goes on.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from seqdistill.errors import InputError
from seqdistill.files import disk_errors, json_to_bytes, read_json, sync_folder, write_whole
from seqdistill.speech.shards import Note, ShardPlace, entry_name
from seqdistill.speech.zip_files import Entry, directory, header_length

_PART = "features.zip"


def zip_entries(ids: Sequence[Sequence[str]], notes: Sequence[Note]) -> list[Entry]:
    """Return the entries of the whole zip.

    Args:
        ids: of the recordings in each shard's list.
        notes: of the shards.
    """
    entries, offset = [], 0
    for names, note in zip(ids, notes, strict=True):
        for one in note.kept:
            name = entry_name(names[one.index])
            entries.append(Entry(name, one.crc, one.size, offset))
            offset += header_length(name) + one.size
    return entries


def join(
    folder: Path,
    places: Sequence[ShardPlace],
    notes: Sequence[Note],
    entries: Sequence[Entry],
    target: Path,
) -> Iterator[int]:
    """Write a set's zip, or go on with it; yield how many utterances went in.

    Args:
        folder: of the set's shards; the unfinished zip and its note are here.
        places: of the shards.
        notes: of the shards.
        entries: of the whole zip.
        target: the finished zip; on the same disk.

    Raises:
        InputError: the disk is full, or a shard is gone or damaged.
    """
    if target.exists():  # it appears whole only
        yield len(entries)
        return
    part = folder / _PART
    done = joined_shards(folder, notes)
    offset = sum(note.size for note in notes[:done])
    yield sum(len(note.kept) for note in notes[:done])
    with disk_errors(part), open(part, "r+b" if part.exists() else "w+b") as handle:
        handle.truncate(offset)
        handle.seek(offset)
        for place, note in zip(places[done:], notes[done:], strict=True):
            data = place.features.read_bytes()
            if len(data) != note.size:
                raise InputError(f"{place.features} is cut short; repeat the command")
            handle.write(data)
            _sync(handle)
            done += 1
            write_whole(_state(folder), json_to_bytes({"shards": done}))
            place.features.unlink()
            yield len(note.kept)
        handle.write(directory(entries, handle.tell()))
        _sync(handle)
    os.replace(part, target)
    sync_folder(target.parent)


def joined_shards(folder: Path, notes: Sequence[Note | None]) -> int:
    """Return how many shards of a set are in its unfinished zip already.

    Args:
        folder: of the set's shards.
        notes: of the shards, None for those that are to be done (again).
    """
    state, part = _state(folder), folder / _PART
    if not state.exists() or not part.exists():
        return 0
    done = int(read_json(state)["shards"])
    sizes = [note.size for note in notes[:done] if note is not None]
    is_whole = len(sizes) == done and part.stat().st_size >= sum(sizes)
    return done if is_whole else 0


def forget_joined(folder: Path) -> None:
    """Begin the zip anew: its shards were made of other files."""
    _state(folder).unlink(missing_ok=True)
    (folder / _PART).unlink(missing_ok=True)


def _sync(handle: IO[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _state(folder: Path) -> Path:
    return folder / "joined.json"
