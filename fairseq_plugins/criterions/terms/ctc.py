"""Joint CTC: a second loss on the encoder, which learns to align speech early in a training."""

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from fairseq_plugins.criterions.batch import Batch, Distilled
from fairseq_plugins.criterions.terms.term import LossTerm, Sums, option_weight
from seqdistill.errors import InputError


@dataclass
class CtcOptions:
    """Options of the term."""

    ctc_weight: float = field(
        default=0.0,
        metadata={
            "help": "speech: weight of the CTC loss on the encoder, added to the distillation loss"
        },
    )


class Ctc(LossTerm):
    """The CTC loss of the encoder that the distillation has run already."""

    name = "ctc"
    in_validation = True

    @classmethod
    def from_options(cls, cfg: Any, task: Any) -> Self | None:
        """See :meth:`LossTerm.from_options`."""
        weight = option_weight(cfg, "ctc_weight")
        return cls(weight) if weight else None

    def added(self, batch: Batch, distilled: Distilled) -> tuple[Tensor, Sums]:
        """Return the loss of the batch's transcripts."""
        return ctc_loss(distilled.model, distilled.extra, batch.sample)

    @classmethod
    def log(cls, sums: Sums) -> dict[str, tuple[float, float]]:
        """Return the metrics of a step, with the number of utterances that cannot be aligned."""
        found = super().log(sums)
        if sums.get("ctc_impossible"):
            found["ctc_impossible"] = sums["ctc_impossible"], 1
        return found


def ctc_loss(model: Any, extra: Any, sample: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Return the CTC loss of a batch (Graves et al., 2006), and what is logged of it.

    Targets and the blank (index 0, ``<s>``) are those of fairseq's
    ``label_smoothed_cross_entropy_with_ctc``: so teachers trained by it fit.

    Args:
        model: an S2T model that was built with ``--ctc-weight`` above 0.
        extra: what its decoder returned beside logits or features; holds the encoder's output.
        sample: fairseq's batch.

    Returns:
        −Σ ln P(target | encoder), nats, over utterances; those with fewer encoder frames than CTC
        needs cannot be aligned: they count 0, and ``ctc_impossible`` counts them.

    Raises:
        InputError: the model has no CTC projection.
    """
    encoder = getattr(model, "encoder", None)
    if getattr(encoder, "ctc_proj", None) is None:
        raise InputError(
            "--ctc-weight: expected an S2T transformer or conformer, got a "
            f"{type(model).__name__}, whose encoder has no CTC projection; leave --ctc-weight away"
        )
    log_probs, frames = model.get_ctc_output((None, extra), sample)  # (S, B, V), (B,)
    target, lengths = model.get_ctc_target(sample)
    counted = torch.arange(target.shape[1], device=target.device) < lengths.unsqueeze(1)
    losses = nn.functional.ctc_loss(
        log_probs, target[counted], frames, lengths, reduction="none", zero_infinity=True
    )
    loss = losses.sum()
    # A piece said twice needs a blank between. (A loss of 0 alone says nothing: a sure model's
    # rounds to it.)
    repeats = (target[:, 1:].eq(target[:, :-1]) & counted[:, 1:]).sum(dim=1)
    impossible = (frames < lengths + repeats).sum()
    return loss, {"ctc_loss": loss.detach(), "ctc_impossible": impossible}
