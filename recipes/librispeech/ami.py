"""``python -m recipes.librispeech.ami SOURCE OUTPUT``: AMI in LibriSpeech's layout.

SOURCE is a data folder of Kaldi or ESPnet, as their AMI recipes make it for headset microphones
(``data/ihm/eval``, say):

    segments    utterance recording begin end      seconds
    text        utterance words
    wav.scp     recording file.wav                 or a command that ends in |: it is not run, the
                                                   one .wav in it is read
    utt2spk     utterance speaker                  optional
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.common.audio import RATE, Spoken, resample
from recipes.librispeech.conversion import Problems, converter_parser, normalise, run
from seqdistill.errors import InputError
from seqdistill.speech.audio import Array, AudioError, read_audio

_TOLERANCE = 0.05
"""Seconds by which a segment may end after its recording: times of transcripts are rounded."""


@dataclass(frozen=True)
class Segment:
    """A part of a recording.

    Attributes:
        name: the utterance's.
        recording: its key in ``wav.scp``.
        begin, end: seconds.
        speaker: who speaks; the recording, where nobody says.
        text: what is said.
    """

    name: str
    recording: str
    begin: float
    end: float
    speaker: str
    text: str


def read_table(path: Path, columns: int, *, may_lack: bool = False) -> dict[str, list[str]]:
    """Read a Kaldi table: by the first word of a line the others, the last one with its spaces.

    Args:
        path: the file.
        columns: how many others there are.
        may_lack: whether there may be fewer.

    Raises:
        InputError: the file is missing, a line is too short or a key is there twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a data folder of Kaldi or ESPnet")
    table: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        key, *values = line.split(maxsplit=columns)
        if len(values) < columns and not may_lack:
            raise InputError(f"{path}:{number}: expected {columns + 1} words, found {line!r}")
        if key in table:
            raise InputError(f"{path}:{number}: {key} is there twice")
        table[key] = values
    return table


def read_segments(folder: Path) -> list[Segment]:
    """Read the segments of a data folder, in the order of recordings and times.

    Raises:
        InputError: a file is missing or damaged, or a segment has no transcript.
    """
    texts = read_table(folder / "text", 1, may_lack=True)
    speakers = read_table(folder / "utt2spk", 1) if (folder / "utt2spk").exists() else {}
    segments = []
    for name, (recording, *times) in read_table(folder / "segments", 3).items():
        try:
            begin, end = (float(time) for time in times)
        except ValueError:
            begin = end = 0.0
        if not 0 <= begin < end:
            raise InputError(
                f"{folder / 'segments'}: {name}: expected begin and end in seconds, found "
                f"{' '.join(times)!r}"
            )
        if name not in texts:
            raise InputError(f"{folder / 'text'}: expected a line {name}, found none")
        (speaker,) = speakers.get(name, [recording])
        text = normalise(" ".join(texts[name]))
        segments.append(Segment(name, recording, begin, end, speaker, text))
    return sorted(segments, key=lambda one: (one.recording, one.begin, one.name))


def audio_file(folder: Path, recording: str, entry: str) -> Path:
    """Return the file that an entry of ``wav.scp`` names, alone or in a command.

    Raises:
        InputError: it names none, or several.
    """
    words = entry.removesuffix("|").split() if entry.endswith("|") else [entry.strip()]
    files = sorted({word for word in words if word.lower().endswith((".wav", ".flac"))})
    if len(files) != 1:
        raise InputError(
            f"{folder / 'wav.scp'}: {recording}: expected one .wav or .flac file, found {entry!r}"
        )
    path = Path(files[0])
    return path if path.is_absolute() or path.exists() else folder / path


def utterances(folder: Path, segments: Sequence[Segment]) -> Callable[[Problems], Iterable[Spoken]]:
    """Return what reads the segments.

    Raises:
        InputError: ``wav.scp`` lacks a recording, or names no file for it.
    """
    entries = read_table(folder / "wav.scp", 1)
    files = {}
    for recording in {segment.recording for segment in segments}:
        if recording not in entries:
            raise InputError(f"{folder / 'wav.scp'}: expected a line {recording}, found none")
        files[recording] = audio_file(folder, recording, entries[recording][0])

    def read(problems: Problems) -> Iterator[Spoken]:
        # One recording at a time: the longest are an hour and a half.
        for recording, members in itertools.groupby(segments, lambda one: one.recording):
            try:
                waveform, rate = read_audio(files[recording])
            except AudioError as error:
                for one in members:
                    problems.add(one.name, str(error))
                continue
            for one in members:
                spoken = _cut(one, waveform, rate, problems)
                if spoken is not None:
                    yield spoken

    return read


def _cut(one: Segment, waveform: Array, rate: int, problems: Problems) -> Spoken | None:
    """Cut a segment out of its recording; None, and a problem, where that cannot be."""
    if one.end > len(waveform) / rate + _TOLERANCE:
        problems.add(
            one.name,
            f"expected a recording of at least {one.end} s, found {len(waveform) / rate:.2f} s",
        )
        return None
    if not one.text:
        problems.add(one.name, "expected words, found none")
        return None
    cut = waveform[round(one.begin * rate) : round(one.end * rate)]
    speaker = one.speaker.replace("-", "_")
    return Spoken(speaker, resample(cut, rate, RATE), one.text, name=one.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = converter_parser(
        "ami",
        "Write AMI (CC BY 4.0), as Kaldi or ESPnet have prepared it, in LibriSpeech's layout.",
        "kaldi/egs/ami/s5b/data/ihm/eval_orig data/ami-eval",
    )
    given = parser.parse_args(arguments)

    def read() -> tuple[Sequence[object], Callable[[Problems], Iterable[Spoken]]]:
        segments = read_segments(given.source)
        return segments, utterances(given.source, segments)

    return run(given, read)


if __name__ == "__main__":
    sys.exit(main())
