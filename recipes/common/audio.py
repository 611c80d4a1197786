"""Audio in, audio out: what every speech recipe's ``data.py`` needs.

A speech recipe's ``data.py`` defines a frozen dataclass ``DataOptions`` and a function
``make_sets(options)`` that returns a :data:`SetMaker` by name of the set, and ends with
``main(DataOptions, make_sets)``. A maker writes one folder in LibriSpeech's layout:
``<set>/<speaker>/<chapter>/<id>.flac`` with ``<speaker>-<chapter>.trans.txt`` beside them, or links
to such a folder. Where it reads files, a function ``source_files(options)`` lists them, so that the
runner sees a change.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.config import build, unknown
from seqdistill.errors import InputError
from seqdistill.files import atomic_write
from seqdistill.speech.audio import FULL_SCALE, Array, read_audio
from seqdistill.speech.extras import need
from seqdistill.speech.layout import READ, list_set
from seqdistill.speech.noise import add_noise

RATE = 16_000
"""Samples a second of everything that is written."""

CHAPTER = "1"

SetMaker = Callable[[Path], None]
"""Writes the audio of one set to a folder that does not exist yet."""


@dataclass(frozen=True)
class Spoken:
    """One utterance.

    Attributes:
        speaker: a name without dashes or spaces.
        waveform: (samples,) at :data:`RATE`.
        text: what is said; None in a set without transcripts.
        name: of the utterance, its file and its line; None: speaker and number.
    """

    speaker: str
    waveform: Array
    text: str | None
    name: str | None = None


def read_split(folder: Path) -> Iterator[Spoken]:
    """Read a folder in LibriSpeech's layout, ``<speaker>/<chapter>/*.flac``, by utterance.

    Raises:
        InputError: the folder is missing, or something in it does not fit together.
    """
    listing = list_set(folder.name, [folder])
    if listing.problems:
        first = listing.problems[0]
        raise InputError(f"{first.file}: {first.what} ({len(listing.problems)} such problems)")
    for recording in listing.recordings:
        waveform, _ = read_audio(recording.path, rate=RATE)
        yield Spoken(recording.speaker, waveform, recording.text)


def write_split(folder: Path, utterances: Iterable[Spoken]) -> None:
    """Write utterances in LibriSpeech's layout, as FLAC of 16 bits.

    A waveform that goes beyond [−1, 1], as noisy ones may, is made quieter as a whole: cut-off
    peaks would be another kind of noise.

    Raises:
        InputError: there are none, or some have a transcript and some have none.
    """
    soundfile = need("soundfile", "writing audio")
    lines: dict[Path, list[str]] = {}
    numbers: dict[str, int] = {}
    with_text: bool | None = None
    for utterance in utterances:
        if with_text not in (None, utterance.text is not None):
            raise InputError(f"{folder.name}: either all utterances have a transcript, or none has")
        with_text = utterance.text is not None
        number = numbers[utterance.speaker] = numbers.get(utterance.speaker, -1) + 1
        prefix = f"{utterance.speaker}-{CHAPTER}"
        name = utterance.name or f"{prefix}-{number:05d}"
        chapter = folder / utterance.speaker / CHAPTER
        chapter.mkdir(parents=True, exist_ok=True)
        scaled = utterance.waveform.astype(np.float64) * FULL_SCALE
        too_loud = max(float(np.abs(scaled).max(initial=0.0)) / (FULL_SCALE - 1), 1.0)
        samples = np.round(scaled / too_loud).astype(np.int16)
        soundfile.write(chapter / f"{name}.flac", samples, RATE, subtype="PCM_16")
        if utterance.text is not None:
            lines.setdefault(chapter / f"{prefix}.trans.txt", []).append(f"{name} {utterance.text}")
    if with_text is None:
        raise InputError(f"{folder.name}: there are no utterances for this set")
    for path, content in lines.items():
        with atomic_write(path) as handle:
            handle.writelines(f"{line}\n" for line in content)


def link_split(source: Path) -> SetMaker:
    """Return a maker that links a set to a folder that is in the layout already."""

    def make(folder: Path) -> None:
        if not source.is_dir():
            raise InputError(f"{source}: no such folder; expected <speaker>/<chapter>/*.flac in it")
        folder.symlink_to(source.resolve(), target_is_directory=True)

    return make


def link_speakers(sources: Sequence[Path]) -> SetMaker:
    """Return a maker that joins folders in the layout by links to their speakers.

    Raises (when it makes the set):
        InputError: a speaker is in two of the folders; their chapters could be mixed up.
    """

    def make(folder: Path) -> None:
        folder.mkdir()
        for source in sources:
            for speaker in sorted(path for path in source.iterdir() if path.is_dir()):
                link = folder / speaker.name
                if link.is_symlink():
                    raise InputError(
                        f"{source}: the speaker {speaker.name} is in {link.readlink().parent}, "
                        "too; expected folders without common speakers"
                    )
                link.symlink_to(speaker.resolve(), target_is_directory=True)

    return make


def changed(
    utterances: Callable[[], Iterable[Spoken]],
    change: Callable[[Array, int], Array],
    *,
    keep_text: bool = True,
) -> SetMaker:
    """Return a maker that writes changed copies of utterances.

    Args:
        utterances: called when the set is made.
        change: from a waveform and the utterance's number to a waveform.
        keep_text: whether the copies keep their transcripts.
    """

    def copies() -> Iterator[Spoken]:
        for number, one in enumerate(utterances()):
            text = one.text if keep_text else None
            yield replace(one, waveform=change(one.waveform, number), text=text)

    return lambda folder: write_split(folder, copies())


def noisy(
    utterances: Callable[[], Iterable[Spoken]], snr_db: float, seed: int, kind: str = "white"
) -> SetMaker:
    """Return a maker of copies with noise at a ratio of signal to noise; they keep their text."""

    def change(waveform: Array, number: int) -> Array:
        return add_noise(waveform, snr_db, seed=seed + number, kind=kind)

    return changed(utterances, change)


def backwards(utterances: Callable[[], Iterable[Spoken]]) -> SetMaker:
    """Return a maker of copies that run backwards: the same sounds and lengths, no words."""
    return changed(utterances, lambda waveform, _: waveform[::-1].copy(), keep_text=False)


def without_text(utterances: Callable[[], Iterable[Spoken]]) -> SetMaker:
    """Return a maker of a set whose transcripts make no sense to the recogniser."""
    return changed(utterances, lambda waveform, _: waveform, keep_text=False)


def resample(waveform: Array, rate: int, new_rate: int) -> Array:
    """Return a waveform with another number of samples a second."""
    torch = need("torch", "resampling")
    functional = need("torchaudio.functional", "resampling")
    changed_rate: Array = functional.resample(torch.from_numpy(waveform), rate, new_rate).numpy()
    return changed_rate


def at_speeds(utterances: Iterable[Spoken], percent: Sequence[int]) -> Iterator[Spoken]:
    """Yield utterances, and each again at other speeds, by speakers of their own.

    Speed changes pitch and tempo together, as on a tape (Ko et al., Audio augmentation for speech
    recognition, Interspeech 2015).

    Args:
        utterances: as they are.
        percent: speeds; 110 is faster and higher.
    """
    for one in utterances:
        yield one
        for speed in percent:
            waveform = resample(one.waveform, speed, 100)
            name = one.name and f"{one.name}x{speed}"
            yield replace(one, speaker=f"{one.speaker}x{speed}", waveform=waveform, name=name)


def describe(folder: Path, *, with_audio: bool = True) -> dict[str, Any]:
    """Say what a set's folder holds: number of files, bytes, and a hash of names and content.

    Args:
        folder: of the set; links in it are followed.
        with_audio: whether the content of audio is in the hash, or only its size: reading a
            thousand hours takes long.
    """
    digest = hashlib.sha256()
    walked = os.walk(folder, followlinks=True)
    paths = sorted(Path(place) / name for place, _, names in walked for name in names)
    total = 0
    for path in paths:
        size = path.stat().st_size
        total += size
        content = f"{size} bytes"
        if with_audio or path.suffix not in READ:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{content}\0".encode())
    return {"files": len(paths), "bytes": total, "sha256": digest.hexdigest()}


def main(
    options_class: type[Any],
    make_sets: Callable[[Any], Mapping[str, SetMaker]],
    arguments: Sequence[str] | None = None,
    *,
    hash_audio: bool = True,
) -> None:
    """Command line of a speech recipe's ``data.py``; the runner's first step calls it.

    Args:
        options_class: its ``DataOptions``.
        make_sets: from options to makers.
        arguments: of the command line; None: the process's.
        hash_audio: see ``with_audio`` of :func:`describe`.
    """
    parser = argparse.ArgumentParser(description="write the audio of a recipe's data sets")
    parser.add_argument("--options", default="{}", metavar="JSON", help="data.options of the YAML")
    parser.add_argument("--sets", required=True, nargs="+", metavar="NAME", help="those to write")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    given = parser.parse_args(arguments)
    try:
        makers = make_sets(build(options_class, json.loads(given.options), "data.options"))
        for name in given.sets:
            if name not in makers:
                raise unknown("set", name, list(makers), "data.ood")
        given.output.mkdir(parents=True, exist_ok=True)
        for name in given.sets:
            makers[name](given.output / name)
            record = describe(given.output / name, with_audio=hash_audio)
            with atomic_write(given.output / f"{name}.json") as handle:
                json.dump(record, handle, indent=2)
            print(f"{name}: {record['files']} files, {record['bytes']} bytes", flush=True)
    except InputError as error:
        parser.exit(1, f"error: {error}\n")
