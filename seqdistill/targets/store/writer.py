"""Making a store: one writer at a time, shard by shard, the manifest last.

A folder is a finished store if it has a manifest. While it is made it has the plan, and for each
finished shard the file and, written after it, a note with its size and SHA-256; the notes end up in
the manifest. So whatever kills the writer, finished shards are kept, unfinished ones leave nothing
that counts, and the same command goes on from there. Deleting a shard of a finished store makes the
same command write that one again.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError
from seqdistill.files import LOCK, json_to_bytes, read_json, remove_parts, write_whole
from seqdistill.records import differences
from seqdistill.targets.store import prior
from seqdistill.targets.store.files import tensors_to_bytes
from seqdistill.targets.store.fingerprint import first_different_symbol
from seqdistill.targets.store.settings import (
    MANIFEST,
    PLAN,
    PRIOR,
    SHARDS,
    VOCABULARY,
    StorePlan,
    shard_name,
)
from seqdistill.targets.store.shards import REMAKE, Shard, ShardBuilder

#: What a store's folder may hold beside its own files: what the ensemble decoded.
OTHER_FOLDERS = ("data", "data.part", "decoding")
_OWN = {PLAN, MANIFEST, PRIOR, VOCABULARY, SHARDS, LOCK, *OTHER_FOLDERS}


def clear(folder: Path) -> None:
    """Remove a store, to begin anew; the folder must be :func:`locked`.

    Raises:
        InputError: the folder holds something else, too.
    """
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in _OWN)
    if strangers:
        raise InputError(
            f"{folder} holds {', '.join(strangers[:3])}{' …' * (len(strangers) > 3)}, which no "
            "store has; nothing was removed. Choose another folder, or move these away"
        )
    (folder / MANIFEST).unlink(missing_ok=True)  # first: without it, nothing is taken for finished
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def refuse_foreign(folder: Path) -> None:
    """Raise an :class:`InputError` if a folder has contents and is no store."""
    if not folder.is_dir() or any((folder / name).exists() for name in (PLAN, MANIFEST)):
        return
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in _OWN)
    if strangers:
        raise InputError(
            f"{folder} is not empty ({strangers[0]}) and no store; choose another folder"
        )


class StoreWriter:
    """Goes on with a store, or begins it; use it under :func:`locked`.

    Args:
        folder: of the store.
        plan: what it is to become.

    Raises:
        InputError: the folder holds a store of something else (what differs is named).
    """

    def __init__(self, folder: str | Path, plan: StorePlan) -> None:
        self.folder = Path(folder)
        if not plan.sentences:
            raise InputError("the corpus has no sentences, so there is nothing to store")
        found = _read_plan(self.folder, plan.symbols)
        if found is not None:
            check_plan(self.folder, found, plan)
        self.plan = found or plan
        shards = self.folder / SHARDS
        shards.mkdir(parents=True, exist_ok=True)
        self.tidy()
        if not (self.folder / VOCABULARY).exists():
            write_whole(self.folder / VOCABULARY, json_to_bytes(list(plan.symbols)))
        if found is None:
            write_whole(self.folder / PLAN, json_to_bytes(plan.to_dict()))
        self._manifest: dict[str, Any] = {}
        if (self.folder / MANIFEST).exists():
            self._manifest = read_json(self.folder / MANIFEST)

    def tidy(self) -> None:
        """Remove what killed writers left half written."""
        for folder in (self.folder, self.folder / SHARDS):
            remove_parts(folder)

    def missing(self) -> list[int]:
        """Return the shards that are yet to be written."""
        return [index for index in range(self.plan.shards) if self._entry(index) is None]

    def finish(self) -> dict[str, Any]:
        """Combine the prior and write the manifest, which makes the folder a store.

        Returns:
            The manifest.

        Raises:
            InputError: shards are missing or damaged, or no sentence has targets.
        """
        missing = self.missing()
        if missing:
            raise InputError(f"{self.folder}: shards {missing} are yet to be written")
        shards = range(self.plan.shards)
        entries = [self._entry(index) for index in shards]
        tokens = sum(entry["tokens"] for entry in entries if entry)
        if not tokens:
            raise InputError(f"{self.folder}: no sentence of the corpus has targets")
        opened = (Shard(self.folder / shard_name(index), self.plan, index) for index in shards)
        combined = prior.combine((shard.sums for shard in opened), tokens)
        data = tensors_to_bytes(combined, {"store": self.plan.digest})
        write_whole(self.folder / PRIOR, data)
        manifest = self.plan.to_dict() | {
            "sentences": self.plan.sentences,
            "left_out": sum(entry["left_out"] for entry in entries if entry),
            "tokens": tokens,
            "prior": _seal(data),
            "vocabulary": _seal((self.folder / VOCABULARY).read_bytes()),
            "shards": entries,
        }
        write_whole(self.folder / MANIFEST, json_to_bytes(manifest))
        for index in shards:
            _note(self.folder, index).unlink(missing_ok=True)
        self._manifest = manifest
        return manifest

    def _entry(self, index: int) -> Mapping[str, Any] | None:
        """Return what is known of a finished shard, None if it is to be written."""
        path = self.folder / shard_name(index)
        note = _note(self.folder, index)
        entry: Mapping[str, Any] | None = None
        if note.exists():
            entry = read_json(note)
        elif self._manifest:
            entry = self._manifest["shards"][index]
        is_there = entry is not None and path.exists() and path.stat().st_size == entry["bytes"]
        return entry if is_there else None


def write_shard(folder: Path, builder: ShardBuilder) -> None:
    """Write a shard and, after it, its note; any process may, for the writer that holds the lock.

    Raises:
        InputError: the disk is full.
    """
    path = folder / shard_name(builder.index)
    data = builder.to_bytes()
    note = _note(folder, builder.index)
    note.unlink(missing_ok=True)  # of a shard that is being written again
    write_whole(path, data)
    entry = {"file": shard_name(builder.index), **_seal(data)}
    shard = Shard(path, builder.plan, builder.index)
    entry["sentences"] = len(shard.sentences)
    entry["left_out"] = sum(shard.length(sentence) == 0 for sentence in shard.sentences)
    entry["tokens"] = shard.tokens
    write_whole(note, json_to_bytes(entry))


def read_symbols(folder: Path) -> Sequence[str]:
    """Return the symbols of a store's dictionary."""
    path = folder / VOCABULARY
    if not path.exists():
        raise InputError(f"{path}: missing; {REMAKE}")
    symbols: Sequence[str] = read_json(path)
    return symbols


def check_plan(folder: Path, expected: StorePlan, found: StorePlan) -> None:
    """Raise an :class:`InputError` that names what differs between a store and a new command."""
    lines = differences(expected.compared(), found.compared())
    if not lines:
        return
    if expected.fingerprint.target_dictionary != found.fingerprint.target_dictionary:
        lines.append(first_different_symbol(expected.symbols, found.symbols))
    raise InputError(
        f"{folder} holds a store of something else:\n  "
        + "\n  ".join(lines)
        + "\ngive what it was begun with, or another folder, or begin it anew (--overwrite)"
    )


def _read_plan(folder: Path, symbols: Sequence[str]) -> StorePlan | None:
    """Return what a store's folder is to become, None if nothing was planned.

    ``symbols`` stand for those of the store if their file was deleted, to be made again.
    """
    path = folder / PLAN
    if not path.exists():
        return None
    if (folder / VOCABULARY).exists():
        symbols = read_symbols(folder)
    return StorePlan.from_dict(read_json(path), symbols, path)


def _note(folder: Path, index: int) -> Path:
    return (folder / shard_name(index)).with_suffix(".json")


def _seal(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
