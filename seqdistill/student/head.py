"""The student's head: how its logits are read, saved in the checkpoint beside the weights."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.numerics import DirichletTerms
from seqdistill.student.kinds import KINDS
from seqdistill.student.outputs import StudentOutputs

PREDICTIVES = ("base", "mean")


@dataclass(frozen=True)
class StudentHead:
    """How a student's logits are read.

    Attributes:
        kind: of :data:`~seqdistill.student.kinds.KINDS`: ``dirichlet`` (α = e^z + offset),
            ``softmax`` (an ordinary model), or one with more outputs than logits, as ``hydra``.
        offset: the Dirichlet's o, 1 or 0; None for others.
        predictive: ``base``, softmax(z), or ``mean``, α/α₀ (they differ by the mass that the
            offsets move to the uniform distribution). ``softmax`` models have only the base.
        measures: names of the uncertainty measures to write; None writes all.
        settings: what else the kind must know to build its outputs, plain values by name.
    """

    kind: str = "softmax"
    offset: float | None = None
    predictive: str = "base"
    measures: tuple[str, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            known = " or ".join(map(repr, KINDS))
            raise InputError(f"expected a head {known}, got {self.kind!r}")
        kind = KINDS[self.kind]
        kind.check(self.offset, self.settings)
        if self.predictive not in PREDICTIVES:
            raise InputError(
                f"expected a predictive among {', '.join(PREDICTIVES)}, got {self.predictive!r}"
            )
        if self.predictive not in kind.predictives:
            raise InputError(
                f"predictive {self.predictive!r} needs a Dirichlet student; this head is a "
                f"{self.kind}"
            )

    def outputs(self, D: int, V: int) -> StudentOutputs | None:
        """Return new outputs of a student beside its logits; None where it has none.

        Args:
            D: width of the decoder's features.
            V: size of the vocabulary.
        """
        return KINDS[self.kind].outputs(self.settings, D, V)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Return (..., V) log-probabilities of the predictive distribution, float32 at least."""
        return predictive_log_probs(logits, self.offset, self.predictive)

    def reference_log_probs(self, reference_logit: Tensor, log_sum: Tensor, V: int) -> Tensor:
        """Return (...) ln p of reference pieces from their logits and ln Σ e^z of their rows."""
        if self.predictive == "base" or self.offset != 1:
            return reference_logit - log_sum
        one, total = torch.zeros_like(log_sum), torch.full_like(log_sum, math.log(V))
        return torch.logaddexp(reference_logit, one) - torch.logaddexp(log_sum, total)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they are saved in a checkpoint."""
        values = asdict(self)
        if not self.settings:  # as checkpoints of kinds without settings always were
            del values["settings"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StudentHead":
        """Build a head from what :meth:`to_dict` gave; unknown keys are an error."""
        unknown = sorted(values.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise InputError(
                f"the checkpoint's student head has unknown settings {', '.join(unknown)}; "
                "it was written by a newer seqdistill"
            )
        values = dict(values)
        if values.get("measures") is not None:
            values["measures"] = tuple(values["measures"])
        if values.get("settings") is not None:
            # torch gives tuples back; other formats make lists of them.
            values["settings"] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values["settings"].items()
            }
        return cls(**values)


def predictive_log_probs(logits: Tensor, offset: float | None, predictive: str) -> Tensor:
    """Return the log-probabilities a student predicts with.

    ``base``: ln softmax(z). ``mean``: ln((e^z + o)/Σ(e^z + o)), the Dirichlet's mean.

    Args:
        logits: (..., V), any floating dtype; computed in float32 at least.
        offset: the Dirichlet's o; not used by ``base``.
        predictive: ``base`` or ``mean``.

    Returns:
        (..., V) natural log-probabilities.

    Raises:
        InputError: an unknown predictive, or ``mean`` without an offset.

    Example:
        >>> import torch
        >>> predictive_log_probs(torch.tensor([0.0, -80.0]), 1.0, "mean").exp()
        tensor([0.6667, 0.3333])
    """
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    if predictive == "base":
        return torch.log_softmax(logits, dim=-1)
    if predictive != "mean" or offset not in (0, 1):
        raise InputError(
            f"expected predictive 'base', or 'mean' with offset 1 or 0; got {predictive!r} with "
            f"offset {offset!r}"
        )
    return DirichletTerms(logits, offset).log_mean
