"""Large fresh tensors on huge pages, where the system has them.

A new tensor is paid for page by page when it is first written: for 82 MB, the gradient of a
projection of 40,000 × 512, that took about half of the float32 product that fills it, and three
times less on huge pages. Linux gives 2 MiB pages to memory that asks for them.
"""

import ctypes
import sys
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Below that a huge page would be mostly empty.
_LEAST_BYTES = 8 << 20

_MADV_HUGEPAGE = 14
_PAGE = 4096


def new_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an uninitialised tensor; a large one on a CPU is advised to be on huge pages.

    Args:
        shape: its shape.
        dtype: its dtype.
        device: where it is.
    """
    tensor = torch.empty(shape, dtype=dtype, device=device)
    size = tensor.numel() * tensor.element_size()
    if device.type == "cpu" and size >= _LEAST_BYTES:
        advise = _madvise()
        if advise is not None:
            begin = -(-tensor.data_ptr() // _PAGE) * _PAGE
            end = (tensor.data_ptr() + size) // _PAGE * _PAGE
            # Only advice: where it is refused (a kernel without huge pages) nothing is lost.
            advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_HUGEPAGE)
    return tensor


@lru_cache(maxsize=1)
def _madvise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
