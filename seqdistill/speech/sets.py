"""A set that is being prepared: its shards, what was found of them, and its manifest."""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from seqdistill.errors import InputError
from seqdistill.files import remove_parts
from seqdistill.speech.feature_zips import forget_joined, joined_shards, zip_entries
from seqdistill.speech.layout import Listing, Recording
from seqdistill.speech.manifest import Utterance
from seqdistill.speech.problems import Problem
from seqdistill.speech.shards import SHARD_RECORDINGS, Demands, Note, ShardPlace, places_of
from seqdistill.speech.zip_files import Entry, directory


@dataclass
class SetWork:
    """A set that is being prepared.

    Attributes:
        name: of the set.
        listing: what was found in its folders.
        folder: of its shards.
        target: of its features.
        keep_features: False if features are computed when they are read.
    """

    name: str
    listing: Listing
    folder: Path
    target: Path
    keep_features: bool

    @cached_property
    def places(self) -> list[ShardPlace]:
        """The shards."""
        return places_of(self.folder, len(self.listing.recordings))

    @cached_property
    def notes(self) -> list[Note]:
        """What was found; only to be asked for when all shards are done."""
        notes = [place.read_note() for place in self.places]
        found = [note for note in notes if note is not None]
        if len(found) < len(notes):
            raise InputError(f"{self.folder}: a shard is gone; repeat the command to make it again")
        return found

    @cached_property
    def entries(self) -> list[Entry]:
        """Of the zip."""
        ids = [[one.id for one in self.recordings(place)] for place in self.places]
        return zip_entries(ids, self.notes)

    def recordings(self, place: ShardPlace) -> list[Recording]:
        """Return the recordings of a shard."""
        start = place.index * SHARD_RECORDINGS
        return self.listing.recordings[start : start + SHARD_RECORDINGS]

    def write_lists(self, demands: Demands) -> None:
        """Say what each shard is to hold."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_parts(self.folder)
        for place in self.places:
            place.write_list(self.recordings(place), demands)

    def missing(self) -> list[int]:
        """Return the shards that are yet to be done."""
        notes = [place.read_note() for place in self.places]
        undone = [index for index, note in enumerate(notes) if note is None]
        if not self.keep_features:
            return undone
        if self.target.exists():
            if not undone and self._is_ours():
                return []
            self.target.unlink()
        joined = joined_shards(self.folder, notes)
        if not joined:
            forget_joined(self.folder)  # what there may be is of other files
        return [
            index
            for index, (place, note) in enumerate(zip(self.places, notes, strict=True))
            if note is None or (index >= joined and not _has_size(place.features, note.size))
        ]

    def _is_ours(self) -> bool:
        """Say whether the zip that is there is the one that the shards make."""
        begin = sum(note.size for note in self.notes)
        end = directory(self.entries, begin)
        with open(self.target, "rb") as handle:
            if handle.seek(0, io.SEEK_END) != begin + len(end):
                return False
            handle.seek(begin)
            return handle.read() == end

    def problems(self) -> list[Problem]:
        """Return everything that keeps files out of the set."""
        found = list(self.listing.problems)
        for place, note in zip(self.places, self.notes, strict=True):
            recordings = self.recordings(place)
            for one in note.left_out:
                recording = recordings[one.index]
                found.append(Problem(self.name, str(recording.path), one.kind, one.what))
        return found

    def utterances(self) -> list[Utterance]:
        """Return the manifest's lines."""
        result = []
        entries = iter(self.entries if self.keep_features else ())
        for place, note in zip(self.places, self.notes, strict=True):
            recordings = self.recordings(place)
            for one in note.kept:
                recording = recordings[one.index]
                audio = str(recording.path)
                if self.keep_features:
                    entry = next(entries)
                    audio = f"{self.target.name}:{entry.data_offset}:{entry.size}"
                result.append(
                    Utterance(recording.id, audio, one.frames, recording.text, recording.speaker)
                )
        return result

    def texts(self) -> list[str]:
        """Return the transcripts of the utterances; none where the set has none."""
        return [one.text for one in self.utterances() if one.text is not None]

    def count(self) -> tuple[int, int, int]:
        """Return the numbers of utterances, samples and frames."""
        kept = [one for note in self.notes for one in note.kept]
        return len(kept), sum(one.samples for one in kept), sum(one.frames for one in kept)


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size
