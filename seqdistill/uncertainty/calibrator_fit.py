"""Fitting a calibrator on a model's features and references: a small network, a few hundred steps.

The loss is that of the reference tokens under the calibrated prediction, −ln E[x]_y, and, with a
weight, that of synthetic points of the simplex (:mod:`seqdistill.losses.simplex_mixtures`). The
first makes probabilities right; it says little of how a prediction parts into location and
temperature, which the second does. The second alone is what Esaki and others train.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.losses.simplex_mixtures import (
    different_targets,
    mixture_log_weights,
    simplex_loss,
)
from seqdistill.student import StudentHead
from seqdistill.uncertainty.calibrator import CalibratedRows, Calibrator, calibrator_inputs

_ROWS = 256  # looked at together


@dataclass(frozen=True)
class CalibratorOptions:
    """How a calibrator is fitted.

    Attributes:
        updates: steps of Adam; its rate falls linearly to 0.
        batch: tokens, and mixtures, of a step.
        rate: of learning.
        hidden: units of the network.
        reference_weight: of the reference tokens' loss; 0 is the published method alone.
        simplex_weight: of the mixtures' loss; 0 leaves them away.
        members: positions in a mixture.
        concentration: of the Dirichlet distribution of mixing weights.
        seed: of everything that is drawn.

    Raises:
        InputError: a number out of range, or both weights 0.
    """

    updates: int = 300
    batch: int = 64
    rate: float = 5e-3
    hidden: int = 32
    reference_weight: float = 1.0
    simplex_weight: float = 0.1
    members: int = 4
    concentration: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} of at least 1, got {getattr(self, name)}")
        for name in ("rate", "concentration"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InputError(f"expected a {name} above 0, got {getattr(self, name)}")
        weights = (self.reference_weight, self.simplex_weight)
        if not all(0.0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise InputError(
                "expected weights of references and mixtures of 0 or above, one of them above 0; "
                f"got {weights[0]} and {weights[1]}"
            )
        if self.members < 2:
            raise InputError(f"expected mixtures of at least 2 positions, got {self.members}")


@dataclass(frozen=True)
class CalibrationTokens:
    """What a model says along references; N tokens.

    Attributes:
        features: (N, D) of its decoder.
        targets: (N,) reference tokens.
        sentences: (N,) the sentence of each.
        weight: (V, D) of the projection to logits.
        bias: (V,) of it, or None.
        head: how the student's logits are read; None for an ordinary model.
    """

    features: Tensor
    targets: Tensor
    sentences: Tensor
    weight: Tensor
    bias: Tensor | None = None
    head: StudentHead | None = None

    def log_probs(self, features: Tensor) -> Tensor:
        """Return (R, V) ln p that features (R, D) make."""
        logits = torch.nn.functional.linear(features, self.weight, self.bias).float()
        if self.head is None:
            return torch.log_softmax(logits, dim=-1)
        return self.head.log_probs(logits)

    def of_tokens(self, keep: Tensor) -> "CalibrationTokens":
        """Return those tokens where ``keep`` (N,) is True."""
        return replace(
            self,
            features=self.features[keep],
            targets=self.targets[keep],
            sentences=self.sentences[keep],
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield features, targets and ln p of all tokens, a few rows at a time."""
        parts = (torch.split(one, _ROWS) for one in (self.features, self.targets))
        for features, targets in zip(*parts, strict=True):
            yield features, targets, self.log_probs(features)


class CalibratorFit:
    """The fitting of one calibrator.

    Args:
        tokens: what it is fitted on.
        options: how.

    Raises:
        InputError: too few tokens, or fewer different ones than a mixture has.
    """

    def __init__(self, tokens: CalibrationTokens, options: CalibratorOptions) -> None:
        if len(tokens.targets) < 2:
            raise InputError(f"expected tokens to fit a calibrator on, got {len(tokens.targets)}")
        self.tokens, self.options = tokens, options
        self._draws = torch.Generator().manual_seed(options.seed)
        # The initial weights are drawn, too: the caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.calibrator = Calibrator(tokens.features.shape[-1], options.hidden)
        examples = self._drawn(min(len(tokens.targets), 16 * options.batch))
        with torch.no_grad():
            features = tokens.features[examples]
            inputs = [
                calibrator_inputs(tokens.log_probs(part), part)
                for part in torch.split(features, _ROWS)
            ]
            self.calibrator.normalise_(torch.cat(inputs))
        self._optimizer = torch.optim.Adam(self.calibrator.parameters(), lr=options.rate)

    def run(self) -> Iterator[int]:
        """Fit; yields 1 a step."""
        for step in range(self.options.updates):
            for group in self._optimizer.param_groups:
                group["lr"] = self.options.rate * (1.0 - step / self.options.updates)
            self._optimizer.zero_grad()
            self.loss().backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            yield 1
        self.calibrator.eval()

    def loss(self) -> Tensor:
        """Return the loss of a batch that is drawn, nats a token."""
        options = self.options
        total = torch.zeros((), dtype=torch.float64)
        if options.reference_weight:
            drawn = self._drawn(options.batch)
            features, targets = self.tokens.features[drawn], self.tokens.targets[drawn]
            log_probs = self.tokens.log_probs(features)
            rows: CalibratedRows = self.calibrator(log_probs, features)
            of_targets = rows.log_probs(log_probs.gather(1, targets.unsqueeze(-1)))
            total = total - options.reference_weight * of_targets.mean()
        if options.simplex_weight:
            total = total + options.simplex_weight * self._of_mixtures()
        return total

    def _of_mixtures(self) -> Tensor:
        options, tokens = self.options, self.tokens
        drawn = different_targets(tokens.targets, options.batch, options.members, self._draws)
        log_weights = mixture_log_weights(
            options.batch, options.members, options.concentration, self._draws
        )
        weights = log_weights.exp().to(tokens.features.dtype).unsqueeze(-1)
        features = (weights * tokens.features[drawn]).sum(dim=1)
        log_probs = tokens.log_probs(features)
        scale, log_temperature = self.calibrator.parameters_of(
            calibrator_inputs(log_probs, features)
        )
        of_targets = log_probs.gather(1, tokens.targets[drawn]).double()
        # The location is what the references made it: mixtures speak of the temperature alone.
        locations = of_targets / scale.detach().exp().unsqueeze(-1)
        loss, count = simplex_loss(log_weights, locations, log_temperature)
        return loss / count

    def _drawn(self, count: int) -> Tensor:
        return torch.randint(len(self.tokens.targets), (count,), generator=self._draws)
