"""Which backend computes the rows: the one asked for, or the fastest that can be used."""

import torch

from seqdistill.errors import InputError
from seqdistill.kernels.backend import RowBackend
from seqdistill.kernels.eager import EagerRows

BACKENDS = ("auto", "eager", "cpp", "triton")


def backend_status(name: str) -> tuple[bool, str]:
    """Return whether a backend can be used here, and why or why not.

    Asking for ``cpp`` builds it the first time, asking for ``triton`` imports it; nothing else
    does.
    """
    if name == "cpp":
        from seqdistill.kernels.cpp import cpp_status

        return cpp_status()
    if name == "triton":
        from seqdistill.kernels.triton import triton_status

        return triton_status()
    return True, "plain PyTorch, on any device"


def select_backend(name: str, device: torch.device, dtype: torch.dtype) -> RowBackend:
    """Return a backend for rows on a device.

    ``auto`` takes ``cpp`` on a CPU and ``triton`` on a CUDA GPU where they can be used, else
    ``eager``. float64 rows are always ``eager``: the others compute in float32.

    Args:
        name: one of :data:`BACKENDS`.
        device: of the rows.
        dtype: of the rows.

    Raises:
        InputError: an unknown name, or a backend that was asked for and cannot be used; the
            reason is given.
    """
    if name not in BACKENDS:
        raise InputError(f"expected a loss backend among {', '.join(BACKENDS)}, got {name!r}")
    wanted = name
    if name == "auto":
        wanted = {"cpu": "cpp", "cuda": "triton"}.get(device.type, "eager")
    if dtype == torch.float64:
        wanted = "eager"
    usable, reason = backend_status(wanted)
    if not usable:
        if name != "auto":
            raise InputError(f"loss backend {name} cannot be used: {reason}; take auto or eager")
        wanted = "eager"
    if wanted == "cpp" and device.type != "cpu":
        raise InputError(f"loss backend cpp computes on the CPU, the features are on {device}")
    return _backend(wanted)


def _backend(name: str) -> RowBackend:
    if name == "cpp":
        from seqdistill.kernels.cpp import CppRows

        return CppRows()
    if name == "triton":
        from seqdistill.kernels.triton import TritonRows

        return TritonRows()
    return EagerRows()
