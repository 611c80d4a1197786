"""Log-mel filterbanks as Kaldi computes them: windows of 25 ms, one every 10 ms."""

from typing import Any

import numpy as np

from seqdistill.errors import InputError
from seqdistill.speech.audio import FULL_SCALE, Array
from seqdistill.speech.extras import need

WINDOW_SECONDS = 0.025
STEP_SECONDS = 0.010


def log_mel_filterbanks(waveform: Array, rate: int, bins: int = 80) -> Array:
    """Return the logarithms of the energies in mel-spaced bands.

    What torchaudio's Kaldi-compatible ``fbank`` gives with its defaults (pre-emphasis 0.97, Povey
    window, no dither, power spectrum) for samples of 16-bit size, as fairseq computes it.

    Args:
        waveform: (samples,) in [−1, 1].
        rate: samples a second.
        bins: bands.

    Returns:
        (frames, bins) float32, natural logarithms; frames as :func:`frame_count` says.

    Raises:
        InputError: the waveform has another shape, or is shorter than one window.

    Source: Povey et al., The Kaldi speech recognition toolkit, ASRU 2011.
    """
    import torch

    if waveform.ndim != 1:
        raise InputError(f"expected a waveform (samples,), got one of shape {waveform.shape}")
    if not frame_count(len(waveform), rate):
        raise InputError(
            f"expected at least one window of {1000 * WINDOW_SECONDS:.0f} ms, got "
            f"{len(waveform)} samples at {rate} a second"
        )
    kaldi = need("torchaudio.compliance.kaldi", "computing filterbanks")
    scaled = torch.from_numpy(np.ascontiguousarray(waveform, np.float32)) * FULL_SCALE
    features: Any = kaldi.fbank(
        scaled.unsqueeze(0), num_mel_bins=bins, sample_frequency=float(rate)
    )
    result: Array = features.numpy()
    return result


def frame_count(samples: int, rate: int) -> int:
    """Return how many whole windows there are in a waveform.

    Example:
        >>> [frame_count(samples, 16000) for samples in (399, 400, 559, 560, 16000)]
        [0, 1, 1, 2, 98]
    """
    window, step = int(rate * WINDOW_SECONDS), int(rate * STEP_SECONDS)
    return 0 if samples < window else 1 + (samples - window) // step
