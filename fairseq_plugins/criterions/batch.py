"""One batch of a distillation, as the losses read it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def teacher_input(sample: dict[str, Any]) -> dict[str, Any]:
    """Return what teachers read of fairseq's sample."""
    given: dict[str, Any] = sample.get("teacher_net_input") or sample["net_input"]
    return given


@dataclass(frozen=True)
class Batch:
    """What is known of a batch before any model has read it.

    Attributes:
        sample: fairseq's own.
        token_mask: (B, T) whether a target's token counts.
        references: (N) the pieces that count.
        temperature: the teachers'.
        update: number of the update.
        by_sentence: whether losses are divided by sentences, not by target tokens.
    """

    sample: dict[str, Any]
    token_mask: Tensor
    references: Tensor
    temperature: float
    update: int
    by_sentence: bool

    @property
    def sample_size(self) -> int:
        """By what fairseq divides the loss."""
        target = self.sample["target"]
        return int(target.size(0) if self.by_sentence else self.sample["ntokens"])

    @property
    def net_input(self) -> dict[str, Any]:
        """What the student reads."""
        given: dict[str, Any] = self.sample["net_input"]
        return given

    @property
    def teacher_input(self) -> dict[str, Any]:
        """What teachers read: the same, unless the task says more."""
        return teacher_input(self.sample)


@dataclass(frozen=True)
class Distilled:
    """What the distillation loss of a batch leaves to terms beside it.

    Attributes:
        model: which is trained.
        extra: what its decoder returned beside features or logits.
        again: computes the loss of the batch anew, as the models read it then.
    """

    model: Any
    extra: Any
    again: Callable[[], Tensor]
