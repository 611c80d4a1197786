"""``python -m recipes.librispeech.common_voice SOURCE OUTPUT``: Common Voice in this layout, too.

SOURCE is a language of Common Voice as it is unpacked, ``cv-corpus-…/fr``: ``test.tsv`` with a
header, and ``clips/*.mp3``. Clips are resampled to 16 kHz; who speaks gets a number.
"""

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.common.audio import RATE, Spoken, resample
from recipes.librispeech.conversion import Problems, converter_parser, normalise, run
from recipes.librispeech.mp3 import count_samples
from seqdistill.errors import InputError
from seqdistill.speech.audio import AudioError, decode_audio

_COLUMNS = ("client_id", "path", "sentence")

_PADDING = 4 * 1152
"""Samples: a decoder leaves out the info frame and what an encoder padded, at most four frames."""


@dataclass(frozen=True)
class Clip:
    """A line of the table: who speaks, the file below ``clips``, and the normalised sentence."""

    speaker: str
    file: str
    text: str


def read_clips(table: Path) -> list[Clip]:
    """Read a table of clips; speakers are ``cv1``, ``cv2``, … in the order of the lines.

    Raises:
        InputError: it is missing, or lacks a column or a value.
    """
    if not table.is_file():
        raise InputError(f"{table}: no such file; expected a language's folder of Common Voice")
    numbers: dict[str, int] = {}
    clips = []
    with open(table, encoding="utf-8", newline="") as handle:
        # Sentences hold quotation marks that mean nothing.
        reader = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = set(_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise InputError(
                f"{table}: expected the columns {', '.join(_COLUMNS)}, found no "
                f"{', '.join(sorted(missing))}"
            )
        for number, row in enumerate(reader, start=2):
            speaker, file, text = (row[name] for name in _COLUMNS)
            if not speaker or not file or text is None:
                raise InputError(f"{table}:{number}: expected {', '.join(_COLUMNS)}, found {row}")
            order = numbers.setdefault(speaker, len(numbers) + 1)
            clips.append(Clip(f"cv{order}", file, normalise(text)))
    return clips


def utterances(folder: Path, clips: Sequence[Clip]) -> Callable[[Problems], Iterable[Spoken]]:
    """Return what reads the clips."""

    def read(problems: Problems) -> Iterator[Spoken]:
        for clip in clips:
            path = folder / "clips" / clip.file
            if not clip.text:
                problems.add(str(path), "expected words, found none")
                continue
            try:
                yield _read(path, clip)
            except AudioError as error:
                problems.add(str(path), error.what)

    return read


def _read(path: Path, clip: Clip) -> Spoken:
    """Read a clip whole.

    Raises:
        AudioError: it cannot be.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AudioError(str(path), "missing", f"cannot be read: {error.strerror}") from error
    waveform, rate = decode_audio(data, str(path))
    if path.suffix.lower() == ".mp3":
        samples = count_samples(data)
        if len(waveform) < samples - _PADDING:
            raise AudioError(
                str(path),
                "unreadable",
                f"expected {samples:,} samples, as many as its frames hold, libsndfile reads "
                f"{len(waveform):,}; convert it to WAV or FLAC by another program",
            )
    return Spoken(clip.speaker, resample(waveform, rate, RATE), clip.text, name=path.stem)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = converter_parser(
        "common_voice",
        "Write a set of Common Voice (CC0) in LibriSpeech's layout.",
        "cv-corpus-21.0/fr data/common-voice-fr --table test.tsv",
    )
    parser.add_argument(
        "--table", default="test.tsv", metavar="FILE", help="which set (default: %(default)s)"
    )
    given = parser.parse_args(arguments)

    def read() -> tuple[Sequence[object], Callable[[Problems], Iterable[Spoken]]]:
        clips = read_clips(given.source / given.table)
        return clips, utterances(given.source, clips)

    return run(given, read)


if __name__ == "__main__":
    sys.exit(main())
