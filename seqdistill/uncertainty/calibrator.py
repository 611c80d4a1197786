"""A calibrator: what a trained model's predictions are to be believed, their order untouched.

The model predicts p, and its predictive distribution becomes E[x] of x ~ Concrete(α, λ) with
ln α = ln p/τ: Esaki and others (AISTATS 2024) with a scale τ of the location, since a Concrete's
mean only softens. A small network reads λ and τ off what the model says at a position: the sorted
log-probabilities, their entropy, and the decoder's features. E[x] has the order of p for every
λ and τ, so nothing that is searched or ranked changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqdistill.errors import InputError
from seqdistill.numerics.concrete_moments import (
    ConcreteMoments,
    CountedPoints,
    concrete_moments,
    counted_points,
)
from seqdistill.uncertainty.reading import entropy

#: ln τ and ln λ stay within these bounds.
LOG_SCALE_BOUND, LOG_TEMPERATURE_BOUND = 1.5, 3.5

_TOP = 8  # largest log-probabilities that the network sees
_START = -1.0  # ln λ before anything is learnt: nearly softmax(z/τ)


@dataclass(frozen=True)
class CalibratedRows:
    """Calibrated predictions of R rows.

    Attributes:
        moments: of the Concrete distributions.
        log_scale: (R,) ln τ.
        log_temperature: (R,) ln λ.
        highest: (R,) the model's largest ln p.
    """

    moments: ConcreteMoments
    log_scale: Tensor
    log_temperature: Tensor
    highest: Tensor

    def at(self, rows: Tensor) -> "CalibratedRows":
        """Return those of some rows, (N,)."""
        others = (self.log_scale, self.log_temperature, self.highest)
        return CalibratedRows(self.moments.at(rows), *(one[rows] for one in others))

    @staticmethod
    def join(parts: "Sequence[CalibratedRows]") -> "CalibratedRows":
        """Return the rows of all parts, one after another."""
        return CalibratedRows(
            ConcreteMoments.join([part.moments for part in parts]),
            torch.cat([part.log_scale for part in parts]),
            torch.cat([part.log_temperature for part in parts]),
            torch.cat([part.highest for part in parts]),
        )

    def locations(self, log_probs: Tensor) -> Tensor:
        """Return (R, K) ln α of pieces with ln p (R, K), the row's highest at 0; float64."""
        gaps = log_probs.double() - self.highest.unsqueeze(-1)
        return gaps * (-self.log_scale.double()).exp().unsqueeze(-1)

    def log_probs(self, log_probs: Tensor) -> Tensor:
        """Return (R, K) ln E[x] of pieces that the model gives ln p (R, K)."""
        return self.moments.log_means(self.locations(log_probs)).clamp_max(0.0)

    def means_of_logs(self, log_probs: Tensor) -> Tensor:
        """Return (R, K) E[ln x] of pieces that the model gives ln p (R, K)."""
        return self.moments.means_of_logs(self.locations(log_probs))


class Calibrator(nn.Module):
    """The network that says λ and τ of a position; τ alone, one number, before it is trained.

    Args:
        features: D of the decoder's features.
        hidden: units of its one layer.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, features: int, hidden: int = 32) -> None:
        super().__init__()
        if features < 1 or hidden < 1:
            raise InputError(f"expected features and hidden units, got {features} and {hidden}")
        self.features, self.hidden = features, hidden
        inputs = _TOP + 1 + features
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.inner = nn.Linear(inputs, hidden)
        self.outer = nn.Linear(hidden, 2)
        nn.init.zeros_(self.outer.weight)
        with torch.no_grad():
            self.outer.bias.copy_(torch.tensor([0.0, _START]))

    def normalise_(self, inputs: Tensor) -> None:
        """Centre and scale what the network reads by examples (N, inputs) of it."""
        self.centre.copy_(inputs.mean(dim=0))
        spread = inputs.std(dim=0)
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))

    def parameters_of(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln τ and ln λ, (R,) each, for :func:`calibrator_inputs` (R, inputs)."""
        hidden = torch.tanh(self.inner((inputs - self.centre) / self.spread))
        log_scale, log_temperature = self.outer(hidden).double().unbind(dim=-1)
        return (
            LOG_SCALE_BOUND * torch.tanh(log_scale / LOG_SCALE_BOUND),
            LOG_TEMPERATURE_BOUND * torch.tanh(log_temperature / LOG_TEMPERATURE_BOUND),
        )

    def forward(self, log_probs: Tensor, features: Tensor) -> CalibratedRows:
        """Calibrate rows.

        Args:
            log_probs: (R, V) ln p of the model, finite.
            features: (R, D) of its decoder.

        Raises:
            InputError: features of another width.
        """
        if features.shape[-1] != self.features:
            raise InputError(
                f"this calibrator reads {self.features} features, the model has "
                f"{features.shape[-1]}"
            )
        log_scale, log_temperature = self.parameters_of(calibrator_inputs(log_probs, features))
        points = counted_points(log_probs)
        scaled = CountedPoints(points.values * (-log_scale).exp().unsqueeze(-1), points.counts)
        moments = concrete_moments(scaled, log_temperature)
        return CalibratedRows(moments, log_scale, log_temperature, log_probs.amax(dim=-1).double())

    def to_tensors(self) -> dict[str, Tensor]:
        """Return what a file holds."""
        return {name: value.detach().float().clone() for name, value in self.state_dict().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Calibrator":
        """Build the one that :meth:`to_tensors` described.

        Raises:
            InputError: a tensor is missing, of a wrong shape, or not finite.
        """
        weight: Any = tensors.get("inner.weight")
        if weight is None or weight.ndim != 2 or weight.shape[1] <= _TOP + 1:
            raise InputError("no calibrator: inner.weight is missing or of a wrong shape")
        made = cls(weight.shape[1] - _TOP - 1, weight.shape[0])
        try:
            made.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise InputError(f"no calibrator: {error}") from error
        if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
            raise InputError("a calibrator with numbers that are not finite")
        return made.eval()


def calibrator_inputs(log_probs: Tensor, features: Tensor) -> Tensor:
    """Return (R, inputs) what a calibrator's network reads, float32.

    The largest log-probabilities in their order, the entropy, and the features: nothing depends on
    which pieces are meant but through the features.

    Args:
        log_probs: (R, V) ln p.
        features: (R, D).
    """
    top = log_probs.topk(min(_TOP, log_probs.shape[-1]), dim=-1).values
    if top.shape[-1] < _TOP:
        top = torch.nn.functional.pad(top, (0, _TOP - top.shape[-1]))
    return torch.cat(
        [top.float(), entropy(log_probs).float().unsqueeze(-1), features.float()], dim=-1
    )
