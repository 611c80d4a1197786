"""A model's decoder output before its projection, for the tokens that count.

The fused loss and the teachers project by themselves: only counted tokens, a chunk at a time.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from fairseq.models.transformer import TransformerDecoderBase
from torch import Tensor, nn


@dataclass(frozen=True)
class TokenFeatures:
    """Features of N tokens and the projection that makes logits of them.

    Attributes:
        features: (N, D).
        weight: (V, D).
        bias: (V), or None.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None


def gives_features(model: Any) -> bool:
    """Return whether a model's logits are one linear projection of features that it can give."""
    while hasattr(model, "module"):  # what data-parallel training wraps around a model
        model = model.module
    decoder: Any = getattr(model, "decoder", None)
    return (
        "features_only" in inspect.signature(model.forward).parameters
        and isinstance(getattr(decoder, "output_projection", None), nn.Linear)
        and getattr(decoder, "adaptive_softmax", None) is None
        and type(decoder).output_layer is TransformerDecoderBase.output_layer
    )


def token_features(model: Any, net_input: dict[str, Any], token_mask: Tensor) -> TokenFeatures:
    """Run a model on a batch; ``token_mask`` (B, T) says which N tokens count.

    The model must be one that :func:`gives_features`.
    """
    features, _ = model(**net_input, features_only=True)
    projection = model.decoder.output_projection
    return TokenFeatures(features[token_mask], projection.weight, projection.bias)


def token_logits(model: Any, net_input: dict[str, Any], token_mask: Tensor) -> Tensor:
    """Return the (N, V) logits of the counted tokens; projects only those where it can."""
    if gives_features(model):
        given = token_features(model, net_input, token_mask)
        return nn.functional.linear(given.features, given.weight, given.bias)
    return model(**net_input)[0][token_mask]
