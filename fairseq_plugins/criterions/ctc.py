"""Joint CTC: a second loss on the encoder, which learns to align speech early in a training."""

from typing import Any

import torch
from torch import Tensor, nn

from seqdistill.errors import InputError


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
