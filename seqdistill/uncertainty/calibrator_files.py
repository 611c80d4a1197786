"""A calibrator in a file, with the model that it belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.uncertainty.calibrator import Calibrator
from seqdistill.uncertainty.fitted_files import is_sample_of, read_fitted, write_fitted

SCHEMA = "seqdistill.calibrator/1"


@dataclass(frozen=True)
class CalibratorFile:
    """What a file holds.

    Attributes:
        calibrator: the network.
        name: of the checkpoint.
        predictive: what the model decoded with: ``softmax``, ``base`` or ``mean``.
        weights: what the model is known by, of :func:`~.fitted_files.weight_sample`.
        settings: what it was fitted on, and how, to be shown.
        results: what it was worth on held-out halves, to be shown.
    """

    calibrator: Calibrator
    name: str
    predictive: str
    weights: Sequence[Tensor]
    settings: Mapping[str, Any]
    results: Mapping[str, Any]


def write_calibrator(path: str | Path, made: CalibratorFile, *, overwrite: bool = True) -> None:
    """Write a calibrator, whole or not at all, as safetensors.

    Args:
        path: of the file.
        made: the calibrator and what belongs to it.
        overwrite: refuse to replace a file when False.
    """
    tensors = {f"calibrator.{name}": value for name, value in made.calibrator.to_tensors().items()}
    tensors["weights"] = torch.cat([part.float() for part in made.weights])
    metadata = {
        "schema": SCHEMA,
        "name": made.name,
        "predictive": made.predictive,
        "weights": [len(part) for part in made.weights],
        "settings": dict(made.settings),
        "results": dict(made.results),
    }
    write_fitted(path, tensors, metadata, overwrite=overwrite)


def read_calibrator(path: str | Path) -> CalibratorFile:
    """Read a calibrator of :func:`write_calibrator`; nothing in the file is executed.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    metadata, tensors = read_fitted(path, SCHEMA, "a calibrator", "calibrate")
    own = {
        name.removeprefix("calibrator."): value
        for name, value in tensors.items()
        if name.startswith("calibrator.")
    }
    try:
        return CalibratorFile(
            Calibrator.from_tensors(own),
            metadata["name"],
            metadata["predictive"],
            torch.split(tensors["weights"], metadata["weights"]),
            metadata["settings"],
            metadata["results"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError, InputError) as error:
        raise InputError(f"{path}: damaged: {error}; fit it again") from error


def calibrator_of(path: str | Path, parameters: Sequence[Tensor], predictive: str) -> Calibrator:
    """Return the calibrator of a model, from its file.

    Args:
        path: of the file.
        parameters: of the model, in its order.
        predictive: what it decodes with.

    Raises:
        InputError: the file was fitted for another model, or for another way to decode it; or as
            :func:`read_calibrator`.
    """
    made = read_calibrator(path)
    if not is_sample_of(made.weights, parameters):
        raise InputError(
            f"{path} was fitted for {made.name}, whose weights are not those of the model that "
            "decodes; run `seqdistill calibrate` with that one"
        )
    if made.predictive != predictive:
        raise InputError(
            f"{path} was fitted for {made.name} that decodes with its {made.predictive}, not with "
            f"its {predictive}; run `seqdistill calibrate` with the same --predictive"
        )
    return made.calibrator
