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
