"""A calibrator in the options of a decoding."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairseq_plugins.features import step_projection
from fairseq_plugins.generation.ensemble import estimator_of
from seqdistill.errors import InputError
from seqdistill.uncertainty.calibrator_files import calibrator_of
from seqdistill.uncertainty.estimators import UncertaintyOptions


def with_calibration(
    options: UncertaintyOptions | None, path: str | Path | None, models: Sequence[Any]
) -> UncertaintyOptions:
    """Return options of decoding with the calibrator of a file of ``seqdistill calibrate``.

    Args:
        options: of the decoding; None: the defaults.
        path: of the file; None: the options as they are.
        models: that decode; a calibration is of one.

    Raises:
        InputError: the file is unusable or of another model, there are several models, or one
            whose predictions are not one projection of features.
    """
    options = options or UncertaintyOptions()
    if path is None:
        return options
    model = require_one(models)
    parameters = list(model.parameters())
    calibrator = calibrator_of(path, parameters, estimator_of([model]).info.predictive)
    return replace(options or UncertaintyOptions(), calibrator=calibrator.to(parameters[0].device))


def require_one(models: Sequence[Any]) -> Any:
    """Return the model that can be calibrated.

    Raises:
        InputError: there are several, or it is one that cannot.
    """
    if len(models) != 1:
        raise InputError(
            f"a calibration is of one model, and {len(models)} decode; give one --path (the "
            "control for ensembles is `seqdistill calibration --validation`)"
        )
    (model,) = models
    kind = estimator_of([model]).info.kind
    if kind not in ("softmax", "dirichlet"):
        raise InputError(
            f"a calibration is of an ordinary model or of a Dirichlet student, not of one of kind "
            f"{kind}"
        )
    if step_projection(model) is None:
        raise InputError(
            f"a {type(model).__name__} does not give its features; calibration needs a "
            "transformer with an ordinary output projection"
        )
    return model
