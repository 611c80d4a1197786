"""Densities of features in a file, and how a model is known to be the one they were fitted on."""

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
from seqdistill.uncertainty.densities import SIDES, GaussianDensity, ModelDensity

SCHEMA = "seqdistill.feature-density/1"

_METADATA_KEY = "seqdistill"
_KINDS = ("in_domain", "background")
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


def write_densities(
    path: str | Path,
    densities: Sequence[ModelDensity],
    settings: Mapping[str, Any],
    *,
    overwrite: bool = True,
) -> None:
    """Write the densities of one or several models, whole or not at all.

    Args:
        path: of the safetensors file.
        densities: of the models.
        settings: what they were fitted on, to be shown.
        overwrite: refuse to replace a file when False.
    """
    tensors: dict[str, Tensor] = {}
    models = []
    for m, model in enumerate(densities):
        record: dict[str, Any] = {"name": model.name, "in_domain": {}, "background": {}}
        tensors[f"{m}.weights"] = torch.cat([part.float() for part in model.weights])
        record["weights"] = [len(part) for part in model.weights]
        for kind in _KINDS:
            for side, density in getattr(model, kind).items():
                # Copies: safetensors refuses two names for one memory.
                tensors[f"{m}.{kind}.{side}.mean"] = density.mean.clone()
                tensors[f"{m}.{kind}.{side}.covariance"] = density.covariance.clone()
                record[kind][side] = {"count": density.count, "shrinkage": density.shrinkage}
        models.append(record)
    metadata = {"schema": SCHEMA, "models": models, "settings": dict(settings)}
    data = save(tensors, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    with atomic_write(path, overwrite=overwrite, binary=True) as handle:
        handle.write(data)


def read_densities(path: str | Path) -> list[ModelDensity]:
    """Read the densities of :func:`write_densities`.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected what `seqdistill fit-features` wrote")
    try:
        with safetensors.safe_open(str(path), framework="pt") as handle:
            metadata = json.loads((handle.metadata() or {}).get(_METADATA_KEY, "null"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a density of features, or damaged ({error})") from error
    schema = metadata.get("schema") if isinstance(metadata, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path}: expected schema {SCHEMA!r}, got {schema!r}; give a file that `seqdistill "
            "fit-features` wrote"
        )
    try:
        return [_model(m, record, tensors) for m, record in enumerate(metadata["models"])]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: damaged: {error}; fit it again") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _model(m: int, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ModelDensity:
    gaussians: dict[str, dict[str, GaussianDensity]] = {kind: {} for kind in _KINDS}
    for kind in _KINDS:
        for side in SIDES:
            if side in record[kind]:
                gaussians[kind][side] = GaussianDensity(
                    tensors[f"{m}.{kind}.{side}.mean"],
                    tensors[f"{m}.{kind}.{side}.covariance"],
                    **record[kind][side],
                )
    if gaussians["in_domain"].keys() != set(SIDES):
        raise ValueError(f"model {m} lacks a side")
    weights = torch.split(tensors[f"{m}.weights"], record["weights"])
    return ModelDensity(record["name"], weights, gaussians["in_domain"], gaussians["background"])


def densities_of(
    path: str | Path, models: Sequence[tuple[str, Sequence[Tensor]]]
) -> list[ModelDensity]:
    """Return the density of each model, from a file that may hold those of more.

    Args:
        path: of the file.
        models: name (for messages) and parameters of each, in the model's order.

    Raises:
        InputError: a model is not among those that the file was fitted on, or as
            :func:`read_densities`.
    """
    stored = read_densities(path)
    found = []
    for name, parameters in models:
        mine = [density for density in stored if is_sample_of(density.weights, parameters)]
        if not mine:
            raise InputError(
                f"{path} was fitted on {', '.join(density.name for density in stored)}, whose "
                f"weights are not those of {name}; features of one model say nothing of "
                "another's: run `seqdistill fit-features` with the models that decode"
            )
        found.append(mine[0])
    return found
