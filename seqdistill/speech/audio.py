"""Audio files are read whole and verified: what is cut short or damaged is an error, not noise.

libsndfile gives the part of a WAV file that is there without a word, so the length that its header
promises is compared with the file's; a FLAC file has the MD5 of its samples, which is checked.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from seqdistill.errors import InputError
from seqdistill.speech.extras import need

Array = np.ndarray[Any, np.dtype[np.float32]]

#: A 16-bit sample s stands for s / 2**15.
FULL_SCALE = 2**15

_FLAC = b"fLaC"
#: Of STREAMINFO, which comes first in every FLAC file: mark, block header, then 34 bytes whose last
#: 16 are the MD5 (https://www.rfc-editor.org/rfc/rfc9639#section-8.2).
_FLAC_MD5 = slice(4 + 4 + 18, 4 + 4 + 34)
#: What a WAV header has as its length where it was written to a pipe.
_UNKNOWN_LENGTH = 0xFFFFFFFF


class AudioError(InputError):
    """An audio file cannot be used.

    Attributes:
        kind: one word for it: "missing", "unreadable", "empty", "channels" or "rate".
        what: what was expected and found, without the file's name.
    """

    def __init__(self, name: str, kind: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.kind = kind
        self.what = what


def read_audio(source: str | Path | bytes, *, rate: int | None = None) -> tuple[Array, int]:
    """Read one channel of audio.

    Args:
        source: a file that libsndfile reads (FLAC, WAV …), or its bytes.
        rate: samples a second that are expected; any if None.

    Returns:
        The waveform (samples,) in [−1, 1], and its samples a second.

    Raises:
        AudioError: the file is missing, unreadable, cut short or empty, or has several channels or
            another rate. It is an :class:`~seqdistill.errors.InputError` that names the file.
    """
    if isinstance(source, bytes):
        return decode_audio(source, "audio", rate=rate)
    try:
        data = Path(source).read_bytes()
    except FileNotFoundError as error:
        raise AudioError(str(source), "missing", "expected an audio file, found none") from error
    except OSError as error:
        raise AudioError(str(source), "unreadable", f"cannot be read: {error.strerror}") from error
    return decode_audio(data, str(source), rate=rate)


def decode_audio(data: bytes, name: str, *, rate: int | None = None) -> tuple[Array, int]:
    """Read audio from a file's bytes, see :func:`read_audio`; ``name`` is for messages."""
    if not data:
        raise AudioError(name, "empty", "expected audio, found a file of 0 bytes")
    _check_wav_length(data, name)
    soundfile = need("soundfile", "reading audio")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file.channels, file.samplerate, rate, name)
            # 16-bit samples as they are: the MD5 of a FLAC file is of them.
            is_16_bit = file.subtype == "PCM_16"
            samples = file.read(dtype="int16" if is_16_bit else "float32")
            found_rate, promised, form = file.samplerate, file.frames, file.format
    except soundfile.LibsndfileError as error:
        raise AudioError(
            name, "unreadable", f"expected audio, found what is cut short or damaged ({error})"
        ) from error
    if len(samples) != promised:
        raise AudioError(
            name,
            "unreadable",
            f"cut short: expected {promised:,} samples, as its header says, found {len(samples):,}",
        )
    if not len(samples):
        raise AudioError(name, "empty", "expected audio, found 0 samples")
    if not is_16_bit:
        if not np.isfinite(samples).all():
            raise AudioError(name, "unreadable", "expected numbers, found samples that are none")
        return samples, found_rate
    if form == "FLAC":
        _check_flac_md5(data, samples, name)
    return samples.astype(np.float32) / np.float32(FULL_SCALE), found_rate


def _check_header(channels: int, found: int, rate: int | None, name: str) -> None:
    if channels != 1:
        raise AudioError(
            name, "channels", f"expected 1 channel, found {channels}; mix them or choose one"
        )
    if rate is not None and found != rate:
        raise AudioError(
            name, "rate", f"expected {rate} samples a second, found {found}; resample the file"
        )


def _check_wav_length(data: bytes, name: str) -> None:
    """Walk through the chunks of a WAV file up to its samples, and see that these are all there."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    place = 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"data":
            found = len(data) - place - 8
            if found < length != _UNKNOWN_LENGTH:
                raise AudioError(
                    name,
                    "unreadable",
                    f"cut short: expected {length:,} bytes of samples, as its header says, found "
                    f"{found:,}",
                )
            return
        place += 8 + length + length % 2  # chunks begin at even places
    raise AudioError(name, "unreadable", "cut short: the file ends before its samples begin")


def _check_flac_md5(data: bytes, samples: Any, name: str) -> None:
    expected = data[_FLAC_MD5]
    # Anything may come before the mark (ID3 tags); zeros stand for "not computed".
    if data[:4] != _FLAC or not any(expected):
        return
    found = hashlib.md5(samples.astype("<i2").tobytes(), usedforsecurity=False).digest()
    if found != expected:
        raise AudioError(
            name,
            "unreadable",
            f"damaged: expected samples of MD5 {expected.hex()}, as its header says, found "
            f"{found.hex()}",
        )
