"""Files of a store: safetensors, written whole or not at all, read through the memory map.

Why safetensors: a documented layout (8 bytes of header length, a JSON header with each tensor's
type, shape and place, then the plain little-endian data) that other languages read too, that holds
no code (a pickle would), whose tensors lie aligned and uncompressed, so that a sentence is a slice
of the memory map, and whose library is kept well and has no dependency but numpy here. HDF5 and
zarr bring libraries of their own for chunking and compression that random access would only pay
for; ``.npz`` cannot be mapped.
"""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from seqdistill.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

#: The one key of the files' metadata; its value is JSON.
METADATA_KEY = "seqdistill"

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16,
    "I64": np.int64, "I32": np.int32, "U32": np.uint32, "U16": np.uint16,
}  # fmt: skip


def tensors_to_bytes(arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> bytes:
    """Return a safetensors file; the same arrays and metadata always give the same bytes.

    Args:
        arrays: by name; made contiguous.
        metadata: anything JSON has; kept under one key, since several would come in any order.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=True)
    return safetensors.numpy.save(contiguous, {METADATA_KEY: text})


class MappedTensors:
    """A safetensors file whose arrays are views of the memory map: nothing is read before its use.

    The map is shared by forked processes and survives the file's removal.

    Args:
        path: the file.

    Attributes:
        arrays: read-only views by name.
        metadata: what :func:`tensors_to_bytes` was given.

    Raises:
        InputError: the file is truncated, or its header is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as handle:
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped
            raise InputError(f"{path}: the file is empty") from error
        try:
            begin, header = self._header()
            self.metadata: dict[str, Any] = json.loads(
                header.pop("__metadata__", {}).get(METADATA_KEY, "{}")
            )
            self.arrays = {name: self._view(begin, entry) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: truncated, or its header is damaged: it is not a whole safetensors file "
                f"({error})"
            ) from error

    def _header(self) -> tuple[int, dict[str, Any]]:
        length = int.from_bytes(self._map[:8], "little")
        if len(self._map) < 8 + length:
            raise ValueError(f"a header of {length} bytes in a file of {len(self._map)}")
        header = json.loads(self._map[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
        return 8 + length, header

    def _view(self, begin: int, entry: dict[str, Any]) -> Array:
        dtype = np.dtype(_DTYPES[entry["dtype"]]).newbyteorder("<")
        first, last = entry["data_offsets"]
        count = int(np.prod(entry["shape"], dtype=np.int64))
        if last - first != count * dtype.itemsize:
            raise ValueError(f"{entry['shape']} {dtype.name} in {last - first} bytes")
        if not 0 <= first <= last <= len(self._map) - begin:
            raise ValueError(f"data up to byte {begin + last} in a file of {len(self._map)}")
        return np.frombuffer(self._map, dtype, count, begin + first).reshape(entry["shape"])
