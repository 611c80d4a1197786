"""Small audio files that tests make, and the real ones where they are."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

DATA = Path(os.environ.get("SEQDISTILL_DATA_ROOT") or "../shared/data").resolve() / "asr"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="no real speech: set SEQDISTILL_DATA_ROOT to the data folder"
)


def tone(seconds: float = 0.5, rate: int = 16000, seed: int = 0) -> np.ndarray[Any, Any]:
    """Something like a voice: a few partials and noise, as int16."""
    times = np.arange(round(seconds * rate)) / rate
    generator = np.random.default_rng(seed)
    partials = sum(
        np.sin(2 * np.pi * 180 * k * times + generator.uniform(0, 6)) / k for k in (1, 2, 5)
    )
    samples = 4000 * partials + 300 * generator.standard_normal(len(times))
    return samples.astype(np.int16)


def audio_bytes(
    samples: Any, rate: int = 16000, form: str = "FLAC", subtype: str = "PCM_16"
) -> bytes:
    """The samples as a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


WORDS = ["YES", "NO", "ONE", "TWO", "THREE", "FOUR", "STOP", "HELP", "ERASE", "RUBOUT"]


def write_split(
    folder: Path,
    utterances: int = 6,
    *,
    speakers: int = 2,
    seconds: float = 0.3,
    transcripts: bool = True,
    form: str = "FLAC",
    first: int = 1,
) -> list[Path]:
    """Make a split folder in LibriSpeech layout; return its audio files."""
    paths = []
    for speaker in range(first, first + speakers):
        chapter = folder / str(speaker) / "7"
        chapter.mkdir(parents=True)
        lines = []
        for index in range(utterances // speakers):
            name = f"{speaker}-7-{index:04d}"
            samples = tone(seconds + 0.03 * index, seed=100 * speaker + index)
            path = chapter / f"{name}.{form.lower()}"
            path.write_bytes(audio_bytes(samples, form=form))
            paths.append(path)
            words = np.random.default_rng(speaker * 50 + index).choice(WORDS, 3)
            lines.append(f"{name} {' '.join(words)}\n")
        if transcripts:
            (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return paths
