"""A second system that reads the prefixes which the first one scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairseq import checkpoint_utils

from fairseq_plugins.checkpoints import load_checkpoint
from fairseq_plugins.generation.ensemble import estimator_of
from seqdistill.errors import InputError
from seqdistill.uncertainty.estimators import UncertaintyOptions

#: What every kind of model has; only the predictions of the second system are looked at.
_MEASURES = ("joint_total_uncertainty_pe",)


@dataclass(frozen=True)
class SecondSystem:
    """Models whose predictions are compared with those that are scored.

    Attributes:
        models: fairseq models, one vocabulary with the scored ones.
        options: how they are combined.
    """

    models: Sequence[Any]
    options: UncertaintyOptions


def load_second_system(
    paths: Sequence[str], task: Any, *, combination: str = "pe", predictive: str | None = None
) -> SecondSystem:
    """Load the models of a second system for the dictionaries of a task.

    Args:
        paths: checkpoints: an ensemble, one model, or Dirichlet students.
        task: of the first system; it is not changed.
        combination: of an ensemble's members, ``pe`` or ``ep``.
        predictive: of Dirichlet students, ``base`` or ``mean``; None: what the checkpoint says.

    Raises:
        InputError: no path, a bad checkpoint, one that was trained with other dictionaries, or
            models or options that do not go together.
    """
    if not paths:
        raise InputError("expected the checkpoints of the system to compare with, got none")
    own = task.sibling(predictive)
    models = []
    for path in paths:
        state = load_checkpoint(path)
        task.check_member(path, state)
        loaded, _, _ = checkpoint_utils.load_model_ensemble_and_task([path], task=own, state=state)
        models += [model.eval() for model in loaded]
    options = UncertaintyOptions(_MEASURES, combination)
    estimator_of(models, options)  # what does not go together is said before anything is scored
    return SecondSystem(models, options)
