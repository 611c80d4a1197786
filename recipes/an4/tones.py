"""Strings of tones: a made-up corpus for trying things out where there is no real speech."""

from collections.abc import Iterator
from random import Random

import numpy as np

from recipes.an4.digits import FLOOR, join
from recipes.common.audio import RATE, Spoken
from seqdistill.speech.audio import Array

WORDS = {"DO": 262, "RE": 294, "MI": 330, "FA": 349, "SOL": 392, "LA": 440, "TI": 494}
"""Word → pitch in Hz of a voice of medium height."""

VOICES = {"low": 0.7, "medium": 1.0, "high": 1.5}
"""Speaker → by what all pitches are multiplied."""

STRANGE_VOICE = {"strange": 2.3}

SHORTEST, LONGEST = 1, 4
"""Words of a string."""


def draw_tones(
    count: int, seed: int, part: str, voices: dict[str, float] | None = None
) -> Iterator[Spoken]:
    """Draw strings of tones.

    Args:
        count: of the strings.
        seed: of everything drawn.
        part: which set they are for; another part has other strings.
        voices: the speakers; None: :data:`VOICES`.
    """
    generator = Random(f"tones {part} {seed}")
    noise = np.random.default_rng(generator.randrange(2**32))
    voices = VOICES if voices is None else voices
    for _ in range(count):
        speaker = generator.choice(sorted(voices))
        words = generator.choices(sorted(WORDS), k=generator.randint(SHORTEST, LONGEST))
        sung = [sing(WORDS[word] * voices[speaker], generator) for word in words]
        waveform = join(sung, generator)
        floor = noise.normal(0, FLOOR, len(waveform)).astype(np.float32)
        yield Spoken(speaker, waveform + floor, " ".join(words))


def sing(pitch: float, generator: Random) -> Array:
    """Return a tone with three overtones, a little out of tune, that swells and fades."""
    seconds = generator.uniform(0.15, 0.25)
    time = np.arange(round(seconds * RATE)) / RATE
    hertz = pitch * generator.uniform(0.99, 1.01)
    tone = sum(np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 5))
    waveform: Array = (0.2 * np.sin(np.pi * time / seconds) * tone).astype(np.float32)
    return waveform
