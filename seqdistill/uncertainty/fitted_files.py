"""Files of what was fitted on a model: safe to read, and known to belong to that model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.files import atomic_write

_METADATA_KEY = "seqdistill"
#: Weights looked at in each parameter: enough that two trainings never agree in all of them.
_SAMPLES = 16


def weight_sample(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return some weights of every parameter, evenly spaced: what a model is known by.

    Unlike the checksum of a checkpoint it is the same however the weights were saved, and it can be
    compared with a model that was cast to another dtype; see :func:`is_sample_of`.

    Args:
        parameters: in the model's order.
    """
    sample = []
    for parameter in parameters:
        flat = parameter.detach().reshape(-1)
        places = torch.linspace(0, len(flat) - 1, min(_SAMPLES, len(flat)), dtype=torch.float64)
        sample.append(flat[places.long().to(flat.device)].cpu())
    return sample


def is_sample_of(stored: Sequence[Tensor], parameters: Iterable[Tensor]) -> bool:
    """Return whether weights that were stored are those of a model, in whatever dtype it is now."""
    found = weight_sample(parameters)
    return len(stored) == len(found) and all(
        torch.equal(one.to(other.dtype), other) for one, other in zip(stored, found, strict=True)
    )


def write_fitted(
    path: str | Path, tensors: dict[str, Tensor], metadata: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Write tensors and what is said of them as safetensors, whole or not at all.

    Args:
        path: of the file.
        tensors: by name.
        metadata: with its ``schema``.
        overwrite: refuse to replace a file when False.
    """
    data = save(tensors, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    with atomic_write(path, overwrite=overwrite, binary=True) as handle:
        handle.write(data)


def read_fitted(
    path: str | Path, schema: str, what: str, verb: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return metadata and tensors of a file; nothing in it is executed.

    Args:
        path: of the file.
        schema: which it must have.
        what: it holds, for messages.
        verb: of the command that writes it.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected what `seqdistill {verb}` wrote")
    try:
        with safetensors.safe_open(str(path), framework="pt") as handle:
            metadata = json.loads((handle.metadata() or {}).get(_METADATA_KEY, "null"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not {what}, or damaged ({error})") from error
    found = metadata.get("schema") if isinstance(metadata, dict) else None
    if found != schema:
        raise InputError(
            f"{path}: expected schema {schema!r}, got {found!r}; give a file that `seqdistill "
            f"{verb}` wrote"
        )
    return metadata, tensors
