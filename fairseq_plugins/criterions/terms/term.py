"""What a term beside the distillation loss is: the protocol that every one of them keeps."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from fairseq_plugins.criterions.batch import Batch, Distilled
from fairseq_plugins.placement import Teachers
from seqdistill.errors import InputError

Sums = dict[str, Any]
"""Summed entries of logging outputs by name."""


class LossTerm(nn.Module):
    """A loss that is added, weighted, to the distillation loss of every batch in training.

    A module, because what a term learns belongs to the criterion: it is optimised, and saved.

    Args:
        weight: of the term, above 0.
    """

    #: What the criterion calls it, and with ``_loss`` what the log does.
    name: ClassVar[str]
    #: Whether it sees through the student's features, which the fused loss is made of.
    needs_features: ClassVar[bool] = False
    #: Whether validation has it, too.
    in_validation: ClassVar[bool] = False

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    @classmethod
    def from_options(cls, cfg: Any, task: Any) -> Self | None:
        """Return the term that the options ask for; None for none.

        Args:
            cfg: of the criterion.
            task: of the training.

        Raises:
            InputError: an option is impossible.
        """
        raise NotImplementedError

    def meet(self, student: Any, teachers: Teachers | None) -> None:
        """Get ready for training with these models; ``teachers`` is None with stored targets.

        Raises:
            InputError: the term cannot be had with them.
        """

    def watching(self, batch: Batch) -> AbstractContextManager[Any]:
        """Return what surrounds the forward passes of the distillation loss."""
        return nullcontext()

    def added(self, batch: Batch, distilled: Distilled) -> tuple[Tensor, Sums]:
        """Return the term of a batch before its weight, a sum as the loss is, and what is logged.

        Raises:
            InputError: this batch cannot have it.
        """
        raise NotImplementedError

    @classmethod
    def log(cls, sums: Sums) -> dict[str, tuple[float, float]]:
        """Return the metrics of a step: name → value, weight of the value in a mean over steps.

        Args:
            sums: of the logging outputs of its batches and ranks.
        """
        name, size = f"{cls.name}_loss", sums["sample_size"]
        return {name: (sums[name] / size, size)} if name in sums else {}


def option_weight(cfg: Any, name: str) -> float:
    """Return the weight of an option such as ``relational_weight``.

    Raises:
        InputError: it is negative, or no number.
    """
    weight = float(getattr(cfg, name))
    if not weight >= 0:
        raise InputError(f"--{name.replace('_', '-')}: expected 0 or more, got {weight:g}")
    return weight
