"""Distances of features from their densities, for hypotheses that were searched or scored."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq_plugins.features import require_features
from seqdistill.uncertainty.densities import SIDES, ModelDensity, distance_measures
from seqdistill.uncertainty.density_files import densities_of


def densities_for(path: str, models: Sequence[Any]) -> list[ModelDensity]:
    """Return the density of each model from a file of ``seqdistill fit-features``.

    Raises:
        InputError: the file is unusable or of other models, or a model gives no features.
    """
    require_features(models)
    named = [
        (f"model {number} of those that decode", list(model.parameters()))
        for number, model in enumerate(models, start=1)
    ]
    return densities_of(path, named)


def attach_distances(
    hypotheses: Sequence[dict[str, Any]],
    densities: Sequence[ModelDensity],
    encoder: Sequence[Tensor],
    decoder: Sequence[Tensor],
) -> None:
    """Add to the ``uncertainty`` of N hypotheses how far their features are from the densities.

    Args:
        hypotheses: of fairseq, which have their other measures; changed.
        densities: of M models.
        encoder: M × (N, D), the encoders' outputs of their sources, pooled.
        decoder: M × (N, D), the decoders' features along them, pooled.
    """
    if not hypotheses:
        return
    pooled = dict(zip(SIDES, (encoder, decoder), strict=True))
    for name, values in distance_measures(densities, pooled).items():
        for hypothesis, value in zip(hypotheses, values.tolist(), strict=True):
            hypothesis["uncertainty"][name] = value


class FeatureSums:
    """Sums of the decoders' features along every row of a beam search; they follow the beams.

    So the mean along a finished hypothesis is known when it ends, and no second pass is made.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []  # M × (rows, D), float64
        self._steps = 0

    def add(self, features: Sequence[Tensor]) -> None:
        """Add a step: M features (rows, D) of its position."""
        newest = [of_model.double() for of_model in features]
        if self._sums:
            newest = [total + new for total, new in zip(self._sums, newest, strict=True)]
        self._sums = newest
        self._steps += 1

    def reorder(self, order: Tensor) -> None:
        """Make row i the continuation of row ``order[i]``."""
        self._sums = [total.index_select(0, order) for total in self._sums]

    def means(self, rows: Tensor) -> list[Tensor]:
        """Return M means (N, D) along the given rows."""
        return [total.index_select(0, rows) / self._steps for total in self._sums]


def rows_of(pooled: Sequence[Tensor], sentences: Sequence[int]) -> list[Tensor]:
    """Return the given sentences' rows of M pooled features (B, D)."""
    return [
        of_model.index_select(0, torch.tensor(sentences, dtype=torch.long, device=of_model.device))
        for of_model in pooled
    ]
