"""Noise at an exact signal-to-noise ratio, the same for the same seed."""

from typing import Any

import numpy as np

from seqdistill.errors import InputError
from seqdistill.speech.audio import Array

KINDS = ("white", "pink")


def add_noise(waveform: Array, snr_db: float, seed: int, kind: str = "white") -> Array:
    """Add noise of the power P(waveform) / 10^(snr_db / 10).

    Args:
        waveform: (samples,), not silent.
        snr_db: of the mean powers over the whole utterance, in decibels; exact, up to rounding.
        seed: of the noise.
        kind: ``white`` (equal power in equal bands of Hz) or ``pink`` (in equal bands of octaves:
            power falls as 1/f).

    Returns:
        (samples,) float32; it may go beyond [−1, 1], and nothing is clipped.

    Raises:
        InputError: the waveform is silent, so that no noise has that ratio; or it has another
            shape.

    Example:
        >>> import numpy as np
        >>> clean = np.sin(np.arange(8000) / 7).astype(np.float32)
        >>> noise = add_noise(clean, 10, seed=1).astype(float) - clean
        >>> round(float(10 * np.log10(np.square(clean).mean() / np.square(noise).mean())), 3)
        10.0
    """
    if kind not in KINDS:
        raise InputError(f"expected a kind of noise out of {', '.join(KINDS)}, got {kind!r}")
    if waveform.ndim != 1:
        raise InputError(f"expected a waveform (samples,), got one of shape {waveform.shape}")
    if not np.isfinite(snr_db):
        raise InputError(f"expected a signal-to-noise ratio in dB, got {snr_db}")
    signal = waveform.astype(np.float64)
    power = np.square(signal).mean() if len(signal) else 0.0
    if power == 0:
        raise InputError("the waveform is silent: no noise has a ratio to it")
    noise = np.random.default_rng(seed).standard_normal(len(signal))
    if kind == "pink":
        noise = _pink(noise)
    scale = np.sqrt(power / np.square(noise).mean() * 10 ** (-snr_db / 10))
    result: Array = (signal + scale * noise).astype(np.float32)
    return result


def _pink(white: Any) -> Any:
    """Weigh the spectrum by f^(−1/2); the constant part, where that is infinite, is left out."""
    spectrum = np.fft.rfft(white)
    if len(spectrum) < 2:
        return white  # one sample has no spectrum to speak of
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.fft.irfft(spectrum, n=len(white))
