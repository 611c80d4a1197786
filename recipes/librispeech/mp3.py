"""How long an MP3 is, counted frame by frame.

libsndfile believes the first frame: where that holds no count of frames and the bitrate varies, it
estimates the length, and reads no further than that without a word.
"""

_KBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Kilobits a second of layer III by version, MPEG-1 (ISO 11172-3) or MPEG-2 (ISO 13818-3)."""

_HERTZ = (44_100, 48_000, 32_000)
"""Of MPEG-1; MPEG-2 has half of it, the unofficial 2.5 a quarter."""

_SLOWER = {0b11: 1, 0b10: 2, 0b00: 4}
_SAMPLES = {1: 1152, 2: 576}
"""Samples of a frame by version."""

_ID3 = 10
"""Bytes of an ID3v2 tag's header."""


def count_samples(data: bytes) -> int:
    """Return the samples of all whole frames of an MP3, its info frame and its padding included.

    Args:
        data: the file's bytes; what is no frame of layer III is passed over.
    """
    place, samples = _after_tag(data), 0
    while place + 4 <= len(data):
        found = _frame(data[place : place + 4])
        if found is None or place + found[0] > len(data):
            place += 1
            continue
        place += found[0]
        samples += found[1]
    return samples


def _after_tag(data: bytes) -> int:
    if data[:3] != b"ID3" or len(data) < _ID3:
        return 0
    size = 0
    for byte in data[6:_ID3]:
        size = size << 7 | byte & 0x7F
    return _ID3 + size


def _frame(header: bytes) -> tuple[int, int] | None:
    """Bytes and samples of the frame that begins with these four bytes; None if none does."""
    layer, slower = header[1] >> 1 & 3, _SLOWER.get(header[1] >> 3 & 3)
    kbits, hertz = header[2] >> 4, header[2] >> 2 & 3
    if header[0] != 0xFF or header[1] >> 5 != 7 or layer != 1 or slower is None:
        return None
    if not 0 < kbits < 15 or hertz == 3:
        return None
    version = 1 if slower == 1 else 2
    rate = _HERTZ[hertz] // slower
    size = _SAMPLES[version] // 8 * 1000 * _KBITS[version][kbits] // rate + (header[2] >> 1 & 1)
    return size, _SAMPLES[version]
