"""Shards of a set: each file is verified, and its features kept, so that a killed run goes on.

A shard has a list (what it is to hold, written first), the features as a run of zip entries, and a
note (what was found, written last, with the list's SHA-256). A shard is done if its note is that of
its list, so files that were mended, and other settings, make just their shards anew.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from seqdistill.files import json_to_bytes, read_json, write_whole
from seqdistill.speech.audio import Array, AudioError, read_audio
from seqdistill.speech.cmvn import Moments, merge_all
from seqdistill.speech.filterbanks import frame_count, log_mel_filterbanks
from seqdistill.speech.layout import Recording
from seqdistill.speech.zip_files import local_header

#: What a killed worker has to do again: some seconds.
SHARD_RECORDINGS = 128


@dataclass(frozen=True)
class Demands:
    """What is asked of every recording; features depend on all of it.

    Attributes:
        rate: samples a second.
        bins: of the filterbanks.
        min_seconds: shorter ones are left out.
        max_seconds: longer ones are left out.
        keep_features: False where they are to be computed when they are read.
        keep_moments: gather means and squares for global CMVN.
    """

    rate: int
    bins: int
    min_seconds: float
    max_seconds: float
    keep_features: bool
    keep_moments: bool


@dataclass(frozen=True)
class Kept:
    """A recording that is part of the set.

    Attributes:
        index: in its shard's list.
        samples: of the audio.
        frames: of the features.
        size: of the features as a ``.npy`` file, in bytes; 0 if they are not kept.
        crc: CRC-32 of that.
    """

    index: int
    samples: int
    frames: int
    size: int
    crc: int


@dataclass(frozen=True)
class LeftOut:
    """A recording that is not: its index in the list, the kind of problem, and what was found."""

    index: int
    kind: str
    what: str


@dataclass(frozen=True)
class Note:
    """What was found of a shard.

    Attributes:
        kept: in the list's order.
        left_out: in the list's order.
        size: of the shard's features with their headers, in bytes.
        moments: of the features, if they were asked for.
    """

    kept: tuple[Kept, ...]
    left_out: tuple[LeftOut, ...]
    size: int
    moments: Moments | None


@dataclass(frozen=True)
class ShardPlace:
    """Where a shard's files are."""

    folder: Path
    index: int

    @property
    def list(self) -> Path:
        """What the shard is to hold."""
        return self.folder / f"{self.index:05d}.list.json"

    @property
    def features(self) -> Path:
        """Its entries of the zip."""
        return self.folder / f"{self.index:05d}.entries"

    @property
    def note(self) -> Path:
        """What was found."""
        return self.folder / f"{self.index:05d}.note.json"

    def write_list(self, recordings: Sequence[Recording], demands: Demands) -> None:
        """Say what the shard is to hold; a list that says so already is left alone."""
        rows = [asdict(one) | {"path": str(one.path)} for one in recordings]
        data = json_to_bytes({"demands": asdict(demands), "recordings": rows})
        if not self.list.exists() or self.list.read_bytes() != data:
            write_whole(self.list, data)

    def read_note(self) -> Note | None:
        """Return what was found, None if the shard is not done, or was a list's that is no more."""
        if not self.note.exists():
            return None
        record = read_json(self.note)
        if record["list"] != _sha256(self.list.read_bytes()):
            return None
        moments = record["moments"]
        return Note(
            tuple(Kept(*row) for row in record["kept"]),
            tuple(LeftOut(*row) for row in record["left_out"]),
            record["size"],
            None if moments is None else Moments.from_dict(moments),
        )


@dataclass(frozen=True)
class ShardWork:
    """The work on shards, for :func:`seqdistill.workers.do_units`: units are places' numbers."""

    places: Sequence[ShardPlace]

    def prepare(self) -> Callable[[int], Iterator[int]]:
        """Return what does a shard and yields 1 for each recording."""
        import torch

        # Each worker has a core of its own; more threads would only be in each other's way.
        torch.set_num_threads(1)
        return lambda unit: do_shard(self.places[unit])


def do_shard(place: ShardPlace) -> Iterator[int]:
    """Verify a shard's recordings and keep their features; yield 1 for each."""
    listed = place.list.read_bytes()
    content = json.loads(listed)
    demands = Demands(**content["demands"])
    kept: list[Kept] = []
    left_out: list[LeftOut] = []
    entries = io.BytesIO()
    moments: list[Moments] = []
    for index, row in enumerate(content["recordings"]):
        try:
            samples, frames, features = _examine(row["path"], demands)
        except AudioError as error:
            left_out.append(LeftOut(index, error.kind, error.what))
            yield 1
            continue
        size = crc = 0
        if features is not None and demands.keep_features:
            data = _npy(features)
            size, crc = len(data), zlib.crc32(data)
            entries.write(local_header(entry_name(row["id"]), data))
            entries.write(data)
        if features is not None and demands.keep_moments:
            moments.append(Moments.of(features))
        kept.append(Kept(index, samples, frames, size, crc))
        yield 1
    place.note.unlink(missing_ok=True)  # of a list that is no more
    if demands.keep_features:
        write_whole(place.features, entries.getvalue())
    note = {
        "list": _sha256(listed),
        "kept": [list(asdict(one).values()) for one in kept],
        "left_out": [list(asdict(one).values()) for one in left_out],
        "size": entries.tell(),
        "moments": merge_all(moments, demands.bins).to_dict() if demands.keep_moments else None,
    }
    write_whole(place.note, json_to_bytes(note))


def entry_name(utterance: str) -> str:
    """Return the name of an utterance's features in the zip."""
    return f"{utterance}.npy"


def npy_overhead(bins: int) -> int:
    """Return how many bytes of an ``.npy`` file are not its values."""
    return len(_npy(np.zeros((1, bins), np.float32))) - 4 * bins


def check_length(samples: int, demands: Demands, name: str) -> None:
    """Raise an :class:`AudioError` where an utterance is too short or too long."""
    seconds = samples / demands.rate
    if seconds < demands.min_seconds:
        raise AudioError(
            name, "too-short", f"expected at least {demands.min_seconds:g} s, found {seconds:.3f} s"
        )
    if seconds > demands.max_seconds:
        raise AudioError(
            name, "too-long", f"expected at most {demands.max_seconds:g} s, found {seconds:.1f} s"
        )


def _examine(path: str, demands: Demands) -> tuple[int, int, Array | None]:
    """Return the number of samples, the number of frames and, if they are of use, features."""
    waveform, rate = read_audio(path, rate=demands.rate)
    check_length(len(waveform), demands, path)
    if not (demands.keep_features or demands.keep_moments):
        return len(waveform), frame_count(len(waveform), rate), None
    features = log_mel_filterbanks(waveform, rate, demands.bins)
    return len(waveform), len(features), features


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, "<f4"))
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def places_of(folder: Path, recordings: int) -> list[ShardPlace]:
    """Return the places of a set's shards."""
    return [ShardPlace(folder, index) for index in range(-(-recordings // SHARD_RECORDINGS))]
