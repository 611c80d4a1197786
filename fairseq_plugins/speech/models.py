"""fairseq's S2T models as distillation needs them: features, CTC, and inert to padding.

A task passes every model that fairseq builds through :func:`adapt`. Its parameters and their names
stay those of fairseq, so checkpoints go to and from the stock task ``speech_to_text``.
"""

import logging
from typing import Any

from fairseq.models import BaseFairseqModel
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerModel
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from torch import Tensor, nn

from fairseq_plugins.speech.padding import make_inert

logger = logging.getLogger(__name__)


class FeaturesS2TTransformer(S2TTransformerModel):
    """fairseq's ``s2t_transformer``, which can stop before the output projection."""

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        features_only: bool = False,
    ) -> Any:
        """Return the decoder's output: logits (B, T, V), or features (B, T, D), and the rest."""
        encoder_out = self.encoder(src_tokens=src_tokens, src_lengths=src_lengths)
        return self.decoder(
            prev_output_tokens, encoder_out=encoder_out, features_only=features_only
        )


class FeaturesS2TConformer(FeaturesS2TTransformer, S2TConformerModel):
    """The same of ``s2t_conformer``."""


_ADAPTED: dict[type, type] = {
    S2TTransformerModel: FeaturesS2TTransformer,
    S2TConformerModel: FeaturesS2TConformer,
}


def adapt(model: BaseFairseqModel, args: Any) -> BaseFairseqModel:
    """Adapt a model in place, and return it.

    Args:
        model: fairseq's; of other classes than the S2T transformer and conformer it is left as it
            is, and a warning says so.
        args: what it was built of; with a ``ctc_weight`` above 0 a conformer gets the CTC
            projection that fairseq gives to transformers only.
    """
    if type(model) not in _ADAPTED:
        logger.warning(
            f"a {type(model).__name__} is used as it is: padding may change its outputs a little, "
            "and losses are not fused with its projection"
        )
        return model
    model.__class__ = _ADAPTED[type(model)]
    encoder = model.encoder
    make_inert(encoder)
    if getattr(args, "ctc_weight", 0.0) > 0 and not hasattr(encoder, "ctc_proj"):
        encoder.ctc_proj = nn.Linear(args.encoder_embed_dim, args.tgt_dict_size)
    return model
