"""A model's decoder output before its projection, for the tokens that count.

The fused loss and the teachers project by themselves: only counted tokens, a chunk at a time.
Densities of features look at the same, and at the encoder's output.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models import BaseFairseqModel, FairseqDecoder
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerModelBase
from torch import Tensor, nn

from seqdistill.errors import InputError
from seqdistill.uncertainty.densities import pool_features

# The methods of models and decoders that take the log-softmax of logits and do nothing else.
_PLAIN = (
    BaseFairseqModel.get_normalized_probs,
    BaseFairseqModel.get_normalized_probs_scriptable,
    TransformerModelBase.get_normalized_probs,
    FairseqDecoder.get_normalized_probs,
    FairseqDecoder.get_normalized_probs_scriptable,
    S2TTransformerModel.get_normalized_probs,
)


@dataclass(frozen=True)
class TokenFeatures:
    """Features of N tokens and the projection that makes logits of them.

    Attributes:
        features: (N, D).
        projection: its weight is (V, D), its bias (V) or None. Where parameters are in parts
            (ZeRO 3) they are whole only :meth:`inside` it.
        extra: what the decoder returned beside them.
    """

    features: Tensor
    projection: nn.Linear
    extra: Any = None

    @property
    def weight(self) -> Tensor:
        """The projection's (V, D)."""
        return self.projection.weight

    @property
    def bias(self) -> Tensor | None:
        """The projection's (V), or None."""
        return self.projection.bias

    def logits(self) -> Tensor:
        """Return (N, V) the features, projected."""
        logits: Tensor = self.projection(self.features)
        return logits

    def inside(
        self, function: Callable[[Tensor], Tensor], features: Tensor | None = None
    ) -> Tensor:
        """Return a function of the features (or of others), run as the projection's forward.

        So the projection's hooks run around it: ZeRO 3 gathers the weight once before (however
        often the function reads it), releases it afterwards, and gathers it again for the
        backward of what is returned.
        """
        attributes = vars(self.projection)
        own = attributes.get("forward")
        attributes["forward"] = function
        try:
            result: Tensor = self.projection(self.features if features is None else features)
        finally:
            del attributes["forward"]
            if own is not None:
                attributes["forward"] = own
        return result


@dataclass(frozen=True)
class ShiftedFeatures(TokenFeatures):
    """Features of N tokens whose logits share a shift each, which is their last column.

    Attributes:
        features: (N, D + 1); the projection's weight gets a column of ones.
    """

    @property
    def weight(self) -> Tensor:
        """(V, D + 1)."""
        own = self.projection.weight
        return torch.cat([own, own.new_ones(own.shape[0], 1)], dim=1)

    def logits(self) -> Tensor:
        """Return (N, V)."""
        logits: Tensor = self.projection(self.features[:, :-1])
        return logits + self.features[:, -1:]


def shifted(given: TokenFeatures, shift: Tensor) -> ShiftedFeatures:
    """Return features whose logits get a shift (N, 1)."""
    return ShiftedFeatures(torch.cat([given.features, shift], 1), given.projection, given.extra)


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


def step_projection(model: Any) -> nn.Linear | None:
    """Return the projection of a decoder whose steps can stop at the features, else None.

    Its log-probabilities must be the log-softmax of what the projection gives.
    """
    if not gives_features(model):
        return None
    decoder = model.decoder
    given: nn.Linear = decoder.output_projection
    is_plain = (
        "features_only" in inspect.signature(decoder.forward).parameters
        and type(model).get_normalized_probs in _PLAIN
        and type(model).get_normalized_probs_scriptable in _PLAIN
        and type(decoder).get_normalized_probs in _PLAIN
        and type(decoder).get_normalized_probs_scriptable in _PLAIN
    )
    return given if is_plain else None


def token_features(model: Any, net_input: dict[str, Any], token_mask: Tensor) -> TokenFeatures:
    """Run a model on a batch; ``token_mask`` (B, T) says which N tokens count.

    The model must be one that :func:`gives_features`.
    """
    features, extra = model(**net_input, features_only=True)
    return TokenFeatures(features[token_mask], model.decoder.output_projection, extra)


def token_logits(model: Any, net_input: dict[str, Any], token_mask: Tensor) -> Tensor:
    """Return the (N, V) logits of the counted tokens; projects only those where it can.

    Raises:
        InputError: the model's predictions are not of one row of logits.
    """
    if getattr(getattr(model, "decoder", None), "student_outputs", None) is not None:
        raise InputError(
            f"a student of kind {model.student_head.kind} has more outputs than one row of logits, "
            "which is all that is read here; give an ordinary model or a Dirichlet student"
        )
    if gives_features(model):
        return token_features(model, net_input, token_mask).logits()
    return model(**net_input)[0][token_mask]


def require_features(models: Any) -> None:
    """Refuse models whose decoders do not give the features that densities are of.

    Raises:
        InputError: such a model.
    """
    for model in models:
        if not (gives_features(model) and hasattr(model, "encoder")):
            raise InputError(
                f"a {type(model).__name__} does not give its features; densities of features need "
                "an encoder-decoder transformer with an ordinary output projection"
            )


def encode_and_decode(
    model: Any, net_input: dict[str, Any], token_mask: Tensor
) -> tuple[Tensor, TokenFeatures]:
    """Run a model on a batch, as :func:`token_features`, and keep the encoder's output.

    Returns:
        (B, D) the encoder's outputs, pooled, and the features of the counted tokens.
    """
    source = {name: net_input[name] for name in ("src_tokens", "src_lengths")}
    encoder_out = model.encoder(**source)
    features, _ = model.decoder(
        net_input["prev_output_tokens"],
        encoder_out=encoder_out,
        features_only=True,
        src_lengths=source["src_lengths"],
    )
    given = TokenFeatures(features[token_mask], model.decoder.output_projection)
    return pooled_encoder_output(encoder_out), given


def pooled_encoder_output(encoder_out: dict[str, list[Tensor]]) -> Tensor:
    """Return (B, D) the mean of fairseq's encoder output over each source's positions, float64."""
    (outputs,) = encoder_out["encoder_out"]  # (S, B, D)
    outputs = outputs.transpose(0, 1)
    counted = torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
    for padding in encoder_out["encoder_padding_mask"]:  # (B, S), or there is none
        counted = ~padding.to(torch.bool)
    return pool_features(outputs, counted)


def pooled_by_sentence(features: Tensor, token_mask: Tensor) -> Tensor:
    """Return (B, D) means of the features (N, D) of the N counted tokens, sentence by sentence."""
    table = features.new_zeros(*token_mask.shape, features.shape[-1])
    table[token_mask] = features
    return pool_features(table, token_mask)
