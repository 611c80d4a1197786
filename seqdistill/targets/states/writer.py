"""Making a store of hidden states: the plan, the maps, shard by shard, the manifest last.

As with the store of targets: whatever kills the writer, finished shards are kept, and the same
command goes on from there.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.files import LOCK, json_to_bytes, read_json, remove_parts, write_whole
from seqdistill.records import differences
from seqdistill.targets.states.compression import Compression
from seqdistill.targets.states.settings import COMPRESSION, MANIFEST, PLAN, SHARDS, StatePlan
from seqdistill.targets.store.files import Array, MappedTensors, tensors_to_bytes

_OWN = {PLAN, MANIFEST, COMPRESSION, SHARDS, LOCK}


def clear(folder: Path) -> None:
    """Remove a store's own files, to begin anew.

    Raises:
        InputError: the folder holds something else, too.
    """
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in _OWN)
    if strangers:
        raise InputError(
            f"{folder} holds {strangers[0]}, which no store of states has; nothing was removed. "
            "Choose another folder, or move it away"
        )
    (folder / MANIFEST).unlink(missing_ok=True)  # first: without it, nothing is taken for finished
    for path in sorted((folder / SHARDS).glob("*")):
        path.unlink()
    for name in (COMPRESSION, PLAN):
        (folder / name).unlink(missing_ok=True)


class StateWriter:
    """Goes on with a store, or begins it; use it while the folder is locked.

    Args:
        folder: of the store.
        plan: what it is to become.

    Raises:
        InputError: the folder holds a store of something else (what differs is named), or no
            store.
    """

    def __init__(self, folder: Path, plan: StatePlan) -> None:
        if not plan.data.sentences:
            raise InputError("the corpus has no sentences, so there is nothing to store")
        self.folder, self.plan = folder, plan
        path = folder / PLAN
        if path.exists():
            found = StatePlan.from_dict(read_json(path), path)
            lines = differences(found.compared(), plan.compared())
            if lines:
                raise InputError(
                    f"{folder} holds a store of something else:\n  "
                    + "\n  ".join(lines)
                    + "\ngive what it was begun with, or another folder, or --overwrite"
                )
            self.plan = found
        elif any(entry.name != LOCK for entry in folder.iterdir()):
            raise InputError(f"{folder} is not empty and no store of states; choose another folder")
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / SHARDS):
            remove_parts(place)
        if not path.exists():
            write_whole(path, json_to_bytes(self.plan.to_dict()))

    def compressions(self) -> dict[str, Compression] | None:
        """Return the maps of the channels, None if they are yet to be fitted."""
        path = self.folder / COMPRESSION
        return read_compressions(path, self.plan) if path.exists() else None

    def write_compressions(self, maps: Mapping[str, Compression]) -> None:
        """Write the maps of all channels."""
        arrays = {
            f"{channel}/{name}": array
            for channel, one in maps.items()
            for name, array in one.to_arrays().items()
        }
        data = tensors_to_bytes(arrays, {"store": self.plan.digest})
        write_whole(self.folder / COMPRESSION, data)

    def missing(self) -> list[int]:
        """Return the shards that are yet to be written."""
        return [index for index in range(self.plan.shards) if not self._is_there(index)]

    def finish(self) -> dict[str, Any]:
        """Write the manifest, which makes the folder a store; returns it.

        Raises:
            InputError: shards are missing.
        """
        missing = self.missing()
        if missing:
            raise InputError(f"{self.folder}: shards {missing} are yet to be written")
        files = [COMPRESSION, *(shard_name(index) for index in range(self.plan.shards))]
        shards = [read_json(_note(self.folder, index)) for index in range(self.plan.shards)]
        manifest = self.plan.to_dict() | {
            "states": sum(shard["states"] for shard in shards),
            "left_out": sum(shard["left_out"] for shard in shards),
            "explained": {
                name: round(one.explained, 6) for name, one in (self.compressions() or {}).items()
            },
            "files": {
                name: {
                    "bytes": (self.folder / name).stat().st_size,
                    "sha256": hashlib.sha256((self.folder / name).read_bytes()).hexdigest(),
                }
                for name in files
            },
        }
        write_whole(self.folder / MANIFEST, json_to_bytes(manifest))
        return manifest

    def _is_there(self, index: int) -> bool:
        path, note = self.folder / shard_name(index), _note(self.folder, index)
        if not (path.exists() and note.exists()):
            return False
        return bool(read_json(note)["bytes"] == path.stat().st_size)


class StateShard:
    """Collects the states of a shard's sentences, which may come in any order.

    Args:
        plan: of the store.
        index: of the shard.
        checksums: of the ids of each of its S sentences, source and target.
    """

    def __init__(self, plan: StatePlan, index: int, checksums: Sequence[tuple[int, int]]) -> None:
        self.plan, self.index = plan, index
        self._sentences = plan.sentences_of(index)
        self._checksums = np.asarray(checksums, np.uint32).reshape(-1, 2)
        self._places: dict[tuple[str, int], Array] = {}
        self._states: dict[tuple[str, int], Array] = {}

    def add_places(self, side: str, sentence: int, places: Array) -> None:
        """Say which positions of a sentence's side are kept."""
        self._places[side, sentence] = np.asarray(places, np.uint16)

    def add(self, channel: str, sentence: int, kept: Tensor) -> None:
        """Add the compressed states (positions, w) of a sentence."""
        self._states[channel, sentence] = kept.to("cpu").half().numpy()

    def write(self, folder: Path) -> None:
        """Write the shard and, after it, its note.

        Raises:
            InputError: the disk is full.
        """
        plan, arrays = self.plan, {"checksums": self._checksums}
        none = np.zeros(0, np.uint16)
        left_out = sum((plan.sides[0], s) not in self._places for s in self._sentences)
        for side in plan.sides:
            places = [self._places.get((side, s), none) for s in self._sentences]
            ends = np.cumsum([0, *(len(one) for one in places)])
            arrays[f"{side}/offsets"] = ends.astype(np.int64)
            arrays[f"{side}/places"] = np.concatenate(places)
        states = 0
        for channel in plan.channels:
            rows = [
                self._states[channel, s] for s in self._sentences if (channel, s) in self._states
            ]
            joined = np.concatenate([np.zeros((0, plan.width), np.float16), *rows])
            arrays[channel] = joined
            states += len(joined)
        data = tensors_to_bytes(arrays, {"store": plan.digest, "shard": self.index})
        note = _note(folder, self.index)
        note.unlink(missing_ok=True)
        write_whole(folder / shard_name(self.index), data)
        record = {"bytes": len(data), "states": states, "left_out": left_out}
        write_whole(note, json_to_bytes(record))


def read_compressions(path: Path, plan: StatePlan) -> dict[str, Compression]:
    """Return the maps of all channels.

    Raises:
        InputError: the file is damaged, or of another store.
    """
    mapped = MappedTensors(path)
    if mapped.metadata.get("store") != plan.digest:
        raise InputError(f"{path}: is of another store; delete it and repeat the command")
    return {
        channel: Compression.from_arrays(
            {name: mapped.arrays[f"{channel}/{name}"] for name in ("mean", "directions", "numbers")}
        )
        for channel in plan.channels
    }


def shard_name(index: int) -> str:
    """Return the name of a shard's file in the store."""
    return f"{SHARDS}/{index:05d}.safetensors"


def _note(folder: Path, index: int) -> Path:
    return (folder / shard_name(index)).with_suffix(".json")
