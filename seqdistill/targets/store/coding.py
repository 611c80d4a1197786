"""Stored precision: probabilities and mean log-probabilities as 16-bit or 32-bit numbers.

``float16`` keeps p̄ · 2¹⁵. The factor is exact, uses the upper half of float16's exponents, which
probabilities leave idle, and keeps 11 significant bits down to p̄ = 2e-9 (instead of 6e-5); what is
smaller loses bits and vanishes below 9e-13 (instead of 3e-8). Eleven bits of a p̄ near 1 are an
error of 2e-4, more than the tail of a sharp token. The tail mass is therefore stored by itself, in
float32, and reading scales a token's probabilities so that they and the tail sum to 1: the error of
the large one is then no more than that of all small ones together.

ℓ̄ lies within a few nats below ln p̄ (Jensen), so ``float16`` keeps the gap ln p̄ − ℓ̄ ≥ 0, taken to
the p̄ that was stored: an error of 5e-4 per nat of gap, where ℓ̄ = −20 itself would err by 8e-3.

``float32`` keeps both as they are, and reading changes nothing.
"""

import numpy as np
import torch
from torch import Tensor

from seqdistill.targets.store.settings import LARGEST_16_BIT_VOCABULARY

#: Exponent of the factor of float16 probabilities: 1 becomes 2¹⁵, half the largest float16.
_SHIFT = 15
_SCALE = float(2**_SHIFT)
#: The smallest positive float16.
_SMALLEST = 2.0**-24


def encode_probs(probs: Tensor, dtype: str, *, keep_positive: bool) -> Tensor:
    """Return probabilities as they are stored.

    Args:
        probs: p̄ of the pieces, any shape, in [0, 1].
        dtype: ``float16`` or ``float32``.
        keep_positive: store at least the smallest positive number, since its logarithm is wanted.
    """
    if dtype == "float32":
        return probs.float()
    scaled = (probs * _SCALE).half()
    return scaled.clamp_min(_SMALLEST) if keep_positive else scaled


def decode_probs(stored: Tensor) -> Tensor:
    """Return float32 probabilities, not yet scaled to their sum."""
    return stored.float().mul_(1 / _SCALE) if stored.dtype == torch.float16 else stored


def encode_log_probs(log_probs: Tensor, stored_probs: Tensor) -> Tensor:
    """Return mean log-probabilities as they are stored.

    Args:
        log_probs: ℓ̄ of the pieces, finite.
        stored_probs: what :func:`encode_probs` made of their p̄.
    """
    if stored_probs.dtype == torch.float32:
        return log_probs.float()
    return (decode_probs(stored_probs).log() - log_probs).half()


def decode_log_probs(stored: Tensor, probs: Tensor) -> Tensor:
    """Return float32 ℓ̄; ``probs`` are those of :func:`decode_probs`, before any scaling."""
    return probs.log().sub_(stored.float()) if stored.dtype == torch.float16 else stored


def piece_dtype(vocabulary_size: int) -> type[np.unsignedinteger]:
    """Return the type of piece numbers: 16 bits where they suffice."""
    return np.uint16 if vocabulary_size <= LARGEST_16_BIT_VOCABULARY else np.uint32
