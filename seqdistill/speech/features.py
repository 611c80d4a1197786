"""Features of an utterance, wherever its manifest says they are.

A place is one of

- ``/x/train.features.zip:OFFSET:LENGTH``: that many bytes of an uncompressed zip, which are a
  ``.npy`` file (or audio);
- ``/x/utterance.npy``: features;
- ``/x/utterance.flac``, ``.wav``: audio, whose features are computed.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from seqdistill.errors import InputError
from seqdistill.speech.audio import Array, decode_audio
from seqdistill.speech.filterbanks import log_mel_filterbanks

_NPY = b"\x93NUMPY"
_AGAIN = "prepare the data again, or correct the manifest"


def load_features(place: str, *, rate: int, bins: int = 80) -> Array:
    """Return the features of an utterance.

    Args:
        place: of a manifest, made absolute.
        rate: samples a second of audio, where the place is audio.
        bins: bands that are expected.

    Returns:
        (frames, bins) float32.

    Raises:
        InputError: nothing is there, or something else than that.
    """
    data = _read(place)
    if data[: len(_NPY)] != _NPY:
        return log_mel_filterbanks(*decode_audio(data, place, rate=rate), bins)
    try:
        features: Any = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{place}: expected features, found a damaged array ({error})") from error
    if features.dtype != np.float32 or features.ndim != 2 or features.shape[1] != bins:
        raise InputError(
            f"{place}: expected float32 features (frames, {bins}), found {features.dtype} of "
            f"shape {features.shape}"
        )
    result: Array = features
    return result


def check_place(place: str) -> None:
    """See that a place is there, without reading it.

    Raises:
        InputError: the file is missing, or has no such range.
    """
    path, part = parse_place(place)
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise InputError(
            f"{place}: expected a file, found none ({error.strerror}); {_AGAIN}"
        ) from error
    if part is not None and not part[0] + part[1] <= size:
        raise InputError(
            f"{place}: expected {part[1]} bytes from byte {part[0]} on, found a file of {size}; "
            f"{_AGAIN}"
        )


def parse_place(place: str) -> tuple[str, tuple[int, int] | None]:
    """Return a place's file and, for a part of a zip, where it begins and its length in bytes.

    Raises:
        InputError: a zip without OFFSET:LENGTH.

    Example:
        >>> parse_place("/data/train.features.zip:120:4000")
        ('/data/train.features.zip', (120, 4000))
        >>> parse_place("/data/12:30/a.flac")
        ('/data/12:30/a.flac', None)
    """
    path, *numbers = place.rsplit(":", 2)
    if path.endswith(".zip") and len(numbers) == 2 and all(x.isdecimal() for x in numbers):
        return path, (int(numbers[0]), int(numbers[1]))
    if Path(path).suffix == ".zip" or place.endswith(".zip"):
        raise InputError(f"{place}: expected FILE.zip:OFFSET:LENGTH in the manifest; {_AGAIN}")
    return place, None


def _read(place: str) -> bytes:
    check_place(place)
    path, part = parse_place(place)
    with open(path, "rb") as handle:
        if part is None:
            return handle.read()
        handle.seek(part[0])
        return handle.read(part[1])
