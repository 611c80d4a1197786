"""The fused loss's row operations as Triton kernels, for CUDA tensors.

Importing this package imports no triton; making a :class:`TritonRows` does. Ask
:func:`triton_status` first.
"""

import importlib.util

import torch

from seqdistill.kernels.triton.backend import TritonRows, interpreting

__all__ = ["TritonRows", "interpreting", "triton_status"]

# What Triton's own documentation names as the oldest supported; bfloat16 needs it as well.
_OLDEST_CAPABILITY = (8, 0)


def triton_status(launch: bool = False) -> tuple[bool, str]:
    """Return whether the Triton backend can be used here, and why or why not. Never raises.

    Args:
        launch: also import triton and run one small kernel, which finds what only shows then: a
            broken installation, a driver that is too old, no C compiler where Triton needs one.
            Takes seconds the first time. False imports nothing.

    Example:
        >>> usable, reason = triton_status()
        >>> isinstance(usable, bool), bool(reason)
        (True, True)
    """
    try:
        usable, reason, device = _status()
        if usable and launch:
            ones = torch.ones(1, 2, device=device)
            TritonRows().ensemble_rows(ones / 2, -ones, -ones[:, 0])
            if device == "cuda":
                torch.cuda.synchronize()
    except Exception as error:  # whatever a driver or a half-installed package may throw
        return False, f"{type(error).__name__}: {error}".splitlines()[0]
    return usable, reason


def _status() -> tuple[bool, str, str]:
    if importlib.util.find_spec("triton") is None:
        return False, "the package triton is not installed", "cpu"
    if interpreting():
        return True, "interpreter (TRITON_INTERPRET is set): correctness only", "cpu"
    if not torch.cuda.is_available():
        return False, "no CUDA device", "cpu"
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if torch.version.hip is None and capability < _OLDEST_CAPABILITY:
        found, oldest = (".".join(map(str, c)) for c in (capability, _OLDEST_CAPABILITY))
        return False, f"{name} has compute capability {found}; Triton needs {oldest}", "cuda"
    return True, f"CUDA device {name}", "cuda"
