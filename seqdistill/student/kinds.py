"""The kinds of heads: what each must be told, and which outputs its students have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from seqdistill.errors import InputError
from seqdistill.student.expectations import ExpectationsKind
from seqdistill.student.hydra import HydraKind
from seqdistill.student.logit_space import ConcreteKind, LogitSpaceKind
from seqdistill.student.outputs import StudentOutputs
from seqdistill.student.precision import PrecisionKind


class HeadKind(Protocol):
    """One kind of head."""

    @property
    def predictives(self) -> tuple[str, ...]:
        """What it can predict with; the first is the usual one."""
        ...

    def check(self, offset: float | None, settings: Mapping[str, Any]) -> None:
        """Raise an :class:`InputError` unless offset and settings are those of this kind."""
        ...

    def outputs(self, settings: Mapping[str, Any], D: int, V: int) -> StudentOutputs | None:
        """Return a student's outputs beside its logits; None where there are none.

        Args:
            settings: that were checked.
            D: width of the decoder's features.
            V: size of the vocabulary.
        """
        ...


@dataclass(frozen=True)
class LogitsKind:
    """A head that reads one row of logits and nothing else."""

    predictives: tuple[str, ...]
    offsets: tuple[float | None, ...]

    def check(self, offset: float | None, settings: Mapping[str, Any]) -> None:
        """See :class:`HeadKind`."""
        if offset not in self.offsets:
            if None in self.offsets:
                raise InputError(f"a softmax head has no offset, got {offset!r}")
            raise InputError(f"a Dirichlet head has an offset of 1 or 0, got {offset!r}")
        if settings:
            raise InputError(f"expected no settings of this head, got {', '.join(settings)}")

    def outputs(self, settings: Mapping[str, Any], D: int, V: int) -> StudentOutputs | None:
        """See :class:`HeadKind`."""
        return None


#: Every kind by the name that is saved in checkpoints.
KINDS: dict[str, HeadKind] = {
    "dirichlet": LogitsKind(("base", "mean"), (0, 1)),
    "softmax": LogitsKind(("base",), (None,)),
    "hydra": HydraKind(),
    "laplace": LogitSpaceKind("laplace"),
    "gaussian": LogitSpaceKind("gaussian"),
    "concrete": ConcreteKind(),
    "expectations": ExpectationsKind(),
    "dirichlet_precision": PrecisionKind(),
}
