"""Densities of features in a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.uncertainty.densities import SIDES, GaussianDensity, ModelDensity
from seqdistill.uncertainty.fitted_files import is_sample_of, read_fitted, write_fitted

SCHEMA = "seqdistill.feature-density/1"

_KINDS = ("in_domain", "background")


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
    write_fitted(path, tensors, metadata, overwrite=overwrite)


def read_densities(path: str | Path) -> list[ModelDensity]:
    """Read the densities of :func:`write_densities`.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    metadata, tensors = read_fitted(path, SCHEMA, "a density of features", "fit-features")
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
