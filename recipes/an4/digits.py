"""Strings of spoken digits, joined from the single recordings of the Free Spoken Digit Dataset."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from recipes.common.audio import RATE, Spoken, resample
from seqdistill.errors import InputError
from seqdistill.speech.audio import FULL_SCALE, Array, read_audio

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")

RECORDED_RATE = 8000

PARTS = {"test": range(5), "valid": range(5, 10), "train": range(10, 50)}
"""Part → numbers of the recordings, of every digit by every speaker; 0 to 4 are the official test
part. No recording is in two parts; the six speakers are in all."""

SHORTEST, LONGEST = 2, 5
"""Digits of a string."""

GAP_SECONDS = (0.06, 0.18)
"""Silence before, between and after the digits, drawn anew each time."""

FLOOR = 2 / FULL_SCALE
"""Standard deviation of the noise under everything. Digital silence has energy 0, whose logarithm
lies so far below all speech that mean and variance of an utterance's features would be those of its
gaps, and speech would hardly be told apart from speech."""


def recording_files(folder: Path, part: str) -> list[Path]:
    """Return the recordings of a part: ``{digit}_{speaker}_{number}.wav``.

    Raises:
        InputError: there are none.
    """
    files = [
        path for path in sorted(folder.glob("?_*_*.wav")) if int(_fields(path)[2]) in PARTS[part]
    ]
    if not files:
        raise InputError(f"{folder}: expected recordings such as 7_jackson_32.wav, found none")
    return files


def draw_strings(
    folder: Path, part: str, *, seed: int, uses: int = 1, singles: int = 0
) -> Iterator[Spoken]:
    """Join the recordings of a part to strings, each of one speaker.

    Args:
        folder: of the recordings.
        part: a key of :data:`PARTS`.
        seed: of lengths, order and gaps.
        uses: how often each recording is used in strings, in other company each time.
        singles: how often each is used alone, too: what training finds its feet with.
    """
    generator = Random(f"digits {part} {seed}")
    noise = np.random.default_rng([seed, list(PARTS).index(part)])
    by_speaker: dict[str, list[Path]] = {}
    for path in recording_files(folder, part):
        by_speaker.setdefault(_fields(path)[1], []).append(path)
    waveforms: dict[Path, Array] = {}
    for lengths in [(SHORTEST, LONGEST)] * uses + [(1, 1)] * singles:
        strings = []
        for speaker, files in by_speaker.items():
            left = generator.sample(files, len(files))
            while left:
                length = generator.randint(*lengths)
                strings.append((speaker, left[:length]))
                left = left[length:]
        generator.shuffle(strings)
        for speaker, chosen in strings:
            for path in chosen:
                if path not in waveforms:
                    waveforms[path] = read_recording(path)
            words = " ".join(WORDS[int(_fields(path)[0])] for path in chosen)
            waveform = join([waveforms[path] for path in chosen], generator)
            floor = noise.normal(0, FLOOR, len(waveform)).astype(np.float32)
            yield Spoken(speaker, waveform + floor, words)


def join(recordings: list[Array], generator: Random) -> Array:
    """Put silence before, between and after recordings."""

    def gap() -> Array:
        return np.zeros(round(generator.uniform(*GAP_SECONDS) * RATE), np.float32)

    parts = [gap()]
    for recording in recordings:
        parts += [recording, gap()]
    return np.concatenate(parts)


def read_recording(path: Path) -> Array:
    """Read a recording, resampled to :data:`~recipes.common.audio.RATE`."""
    waveform, _ = read_audio(path, rate=RECORDED_RATE)
    return resample(waveform, RECORDED_RATE, RATE)


def _fields(path: Path) -> list[str]:
    fields = path.stem.split("_")
    if len(fields) != 3 or not fields[0].isdigit() or not fields[2].isdigit():
        raise InputError(f"{path}: expected a name such as 7_jackson_32.wav")
    return fields
