"""Reading a store of hidden states: a batch's sentences, through the memory map."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.files import read_json
from seqdistill.records import differences
from seqdistill.targets.states.settings import COMPRESSION, MANIFEST, StatePlan
from seqdistill.targets.states.writer import read_compressions, shard_name
from seqdistill.targets.store.files import Array, MappedTensors
from seqdistill.targets.store.fingerprint import DataPrint
from seqdistill.targets.store.shards import ids_checksum


@dataclass(frozen=True)
class StoredStates:
    """States of a batch.

    Attributes:
        rows: of each side (n) int64: which of the batch's tokens the states are of, the tokens of a
            side counted sentence by sentence, without padding.
        states: of each channel (n, w) float32, mean square about 1.
    """

    rows: dict[str, Tensor]
    states: dict[str, Tensor]

    def to(self, device: torch.device) -> "StoredStates":
        """Return the same on a device."""
        return StoredStates(
            {name: one.to(device) for name, one in self.rows.items()},
            {name: one.to(device) for name, one in self.states.items()},
        )


class StateStore:
    """A finished store; :meth:`open` it.

    Attributes:
        plan: what it holds.
        compressions: the map of each channel.
    """

    def __init__(self, folder: Path, plan: StatePlan) -> None:
        self.folder, self.plan = folder, plan
        self.compressions = read_compressions(folder / COMPRESSION, plan)
        self._shards: dict[int, MappedTensors] = {}
        self._counts: dict[str, int] | None = None

    @classmethod
    def open(cls, folder: str | Path) -> "StateStore":
        """Open a store.

        Raises:
            InputError: there is none, it is not finished, or files are missing or cut.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.exists():
            raise InputError(
                f"{folder}: no finished store of states; make one with seqdistill cache-states, or "
                "repeat the command that was interrupted"
            )
        manifest = read_json(path)
        plan = StatePlan.from_dict(manifest, path)
        for name, entry in manifest["files"].items():
            file = folder / name
            if not file.exists() or file.stat().st_size != entry["bytes"]:
                raise InputError(
                    f"{file}: missing or cut; delete {path} and repeat the command that made the "
                    "store: it makes this file again and keeps the others"
                )
        return cls(folder, plan)

    @property
    def counts(self) -> dict[str, int]:
        """Positions of each side that states are kept of, in all sentences."""
        if self._counts is None:
            self._counts = dict.fromkeys(self.plan.sides, 0)
            for index in range(self.plan.shards):
                for side in self._counts:
                    self._counts[side] += int(self._shard(index)[f"{side}/offsets"][-1])
        return self._counts

    def check_data(self, data: DataPrint) -> None:
        """Raise an :class:`InputError` unless the store is of this corpus."""
        lines = differences(
            {"data": vars_of(self.plan.data)}, {"data": vars_of(data)}, holder="the store"
        )
        if lines:
            raise InputError(
                f"{self.folder} is of other data:\n  " + "\n  ".join(lines) + "\nmake it again of "
                "the data that the student trains on"
            )

    def batch(
        self, sentences: Sequence[int], sources: Sequence[Array], targets: Sequence[Array]
    ) -> StoredStates:
        """Return the states of a batch's sentences.

        Args:
            sentences: their numbers in the corpus.
            sources: the ids of each, without padding.
            targets: likewise.

        Raises:
            InputError: a sentence is not the one that was stored, or a shard is damaged.
        """
        rows: dict[str, list[Array]] = {side: [] for side in self.plan.sides}
        states: dict[str, list[Array]] = {channel: [] for channel in self.plan.channels}
        begins = dict.fromkeys(self.plan.sides, 0)
        for sentence, source, target in zip(sentences, sources, targets, strict=True):
            index = sentence // self.plan.shard_sentences
            shard, at = self._shard(index), sentence % self.plan.shard_sentences
            if shard["checksums"][at].tolist() != [ids_checksum(source), ids_checksum(target)]:
                raise InputError(
                    f"{self.folder}: sentence {sentence} of the training is not the one that was "
                    "stored; make the store again of these data"
                )
            for side, ids in (("encoder", source), ("decoder", target)):
                if side not in begins:
                    continue
                first, last = shard[f"{side}/offsets"][at : at + 2]
                rows[side].append(begins[side] + shard[f"{side}/places"][first:last].astype(int))
                begins[side] += len(ids)
                for channel in states:
                    if channel.split(".")[1] == side:
                        states[channel].append(shard[channel][first:last])
        return StoredStates(
            {side: torch.from_numpy(np.concatenate(found)) for side, found in rows.items()},
            {
                channel: torch.from_numpy(np.concatenate(found).astype(np.float32))
                for channel, found in states.items()
            },
        )

    def _shard(self, index: int) -> dict[str, Array]:
        if index not in self._shards:
            path = self.folder / shard_name(index)
            mapped = MappedTensors(path)
            if mapped.metadata != {"store": self.plan.digest, "shard": index}:
                raise InputError(f"{path}: is of another store, or another shard")
            self._shards[index] = mapped
        return self._shards[index].arrays


def vars_of(data: DataPrint) -> dict[str, object]:
    """Return the parts of a corpus's print, nested."""
    return {
        "sentences": data.sentences,
        "source": vars(data.source),
        "target": vars(data.target),
    }
