"""Memory that the walk over the chunks uses again and again.

On a CPU it is kept from one call to the next: fresh memory of this size is paid for page by page,
which takes longer than what is written to it. On a GPU torch's allocator keeps it anyway.
"""

import threading

import torch
from torch import Tensor

from seqdistill.kernels.memory import new_tensor

_kept = threading.local()


class Workspace:
    """Buffers of one chunk, by name; their content is undefined when they are asked for.

    Args:
        rows: tokens of a chunk.
        V: vocabulary size.
        dtype: of the products.
        device: of everything.
    """

    def __init__(self, rows: int, V: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows = rows
        self.V = V
        self.dtype = dtype
        self.device = device
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    @classmethod
    def of_thread(cls, rows: int, V: int, dtype: torch.dtype, device: torch.device) -> "Workspace":
        """Return this thread's workspace, the last one again if it fits."""
        if device.type != "cpu":
            return cls(rows, V, dtype, device)
        kept: Workspace | None = getattr(_kept, "workspace", None)
        if kept is None or kept.rows < rows or kept.V != V:
            kept = cls(rows, V, dtype, device)
            _kept.workspace = kept
        kept.dtype = dtype
        return kept

    def get(self, name: str, n: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return (n, V), n at most ``rows``."""
        return self._memory(name, (self.rows, self.V), dtype or self.dtype)[:n]

    def like(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return memory of another shape, (V, D) say."""
        return self._memory(name, tuple(shape), dtype)

    def cast(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return values in a dtype: themselves if they have it, else in memory used again."""
        if values.dtype == dtype:
            return values
        return self._memory(name, tuple(values.shape), dtype).copy_(values)

    def _memory(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        key = name, dtype
        held = self._held.get(key)
        if held is None or held.shape != shape:
            held = new_tensor(shape, dtype, self.device)
            self._held[key] = held
        return held
