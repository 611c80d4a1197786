"""Encoders of speech that padding does not change.

fairseq's subsamplers and the conformer's convolution let a batch's padding into the last frames of
its shorter utterances: what a layer makes of padding is not zero (it has a bias), and the next
convolution reads it. So an utterance's transcript depends on which ones it is decoded with. The
layers here are fairseq's, weights and all, and set padding to zero before each convolution: what
an utterance would find behind its end if it were alone.
"""

from typing import Any

import torch
from fairseq.models.speech_to_text.modules.convolution import Conv1dSubsampler, Conv2dSubsampler
from fairseq.modules.conformer_layer import ConformerEncoderLayer
from torch import Tensor, nn


class InertConv1dSubsampler(Conv1dSubsampler):
    """fairseq's ``Conv1dSubsampler``, whose output does not depend on padding."""

    def forward(self, src_tokens: Tensor, src_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample (B, T, D) features of the given lengths (B).

        Returns:
            (T', B, D') and lengths (B), the longest T'. (fairseq counts so, too; but its even
            kernels give one frame more, which then fits no mask.)
        """
        x = _for(self.conv_layers[0], src_tokens, src_lengths).transpose(1, 2)  # (B, D, T)
        lengths = src_lengths
        for convolution in self.conv_layers:
            x = nn.functional.glu(convolution(without_padding(x, lengths)), dim=1)
            lengths = _halved(lengths)
            x = x[:, :, : lengths.max()]
        return x.permute(2, 0, 1).contiguous(), lengths


class InertConv2dSubsampler(Conv2dSubsampler):
    """fairseq's ``Conv2dSubsampler``, whose output does not depend on padding."""

    def forward(self, src_tokens: Tensor, src_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Subsample (B, T, D) features of the given lengths (B).

        Returns:
            (T', B, D') and lengths (B): a quarter, rounded up. fairseq divides by the ratio of the
            batch's padded lengths instead, which is 3 for short batches.
        """
        x = _for(self.conv[0], src_tokens, src_lengths).unsqueeze(1)  # (B, 1, T, D)
        lengths = src_lengths
        for layer in self.conv:
            if isinstance(layer, nn.Conv2d):
                x = without_padding(x, lengths, dim=2)
                lengths = _halved(lengths)
            x = layer(x)
        B, _, T, _ = x.shape
        x = x.permute(2, 0, 1, 3).reshape(T, B, -1)
        return self.out(x), lengths


class InertDepthwiseConv(nn.Conv1d):
    """The conformer's depthwise convolution; ``padding_mask`` (B, T) is True at padding."""

    padding_mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, D, T)."""
        if self.padding_mask is not None:
            x = x.masked_fill(self.padding_mask.unsqueeze(1), 0.0)
        return super().forward(x)


class InertBatchNorm(nn.BatchNorm1d):
    """The conformer's batch norm: its statistics are those of the frames that are no padding."""

    padding_mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, D, T)."""
        if self.padding_mask is None or not self.training:
            return super().forward(x)
        counted = ~self.padding_mask
        frames = x.transpose(1, 2)  # (B, T, D)
        normalised = torch.zeros_like(frames)
        normalised[counted] = super().forward(frames[counted])
        return normalised.transpose(1, 2)


class InertConformerLayer(ConformerEncoderLayer):
    """fairseq's ``ConformerEncoderLayer``, whose convolution does not read padding."""

    def forward(
        self,
        x: Tensor,
        encoder_padding_mask: Tensor | None,
        position_emb: Tensor | None = None,
    ) -> Any:
        """Encode (T, B, D); ``encoder_padding_mask`` (B, T) is True at padding."""
        has_padding = encoder_padding_mask is not None and bool(encoder_padding_mask.any())
        for module in (self.conv_module.depthwise_conv, self.conv_module.batch_norm):
            module.padding_mask = encoder_padding_mask if has_padding else None
        return super().forward(x, encoder_padding_mask, position_emb)


def without_padding(x: Tensor, lengths: Tensor, dim: int = -1) -> Tensor:
    """Return ``x`` with zeros from each row's length on, along ``dim``; rows are the first."""
    size = x.shape[dim]
    padding = torch.arange(size, device=x.device) >= lengths.unsqueeze(1)  # (B, T)
    if not padding.any():
        return x
    shape = [1] * x.dim()
    shape[0], shape[dim] = x.shape[0], size
    return x.masked_fill(padding.view(shape), 0.0)


def make_inert(encoder: nn.Module) -> None:
    """Make an encoder of fairseq's S2T models inert to padding, in place; weights stay."""
    classes: dict[type, type] = {
        Conv1dSubsampler: InertConv1dSubsampler,
        Conv2dSubsampler: InertConv2dSubsampler,
        ConformerEncoderLayer: InertConformerLayer,
    }
    for module in encoder.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
        if isinstance(module, InertConformerLayer):
            module.conv_module.depthwise_conv.__class__ = InertDepthwiseConv
            module.conv_module.batch_norm.__class__ = InertBatchNorm


def _for(layer: nn.Module, features: Tensor, lengths: Tensor) -> Tensor:
    """Return features (B, T, D) up to the longest length, in the precision of the layer's weights.

    Features come in the precision of a data set or of a training, models may be of another: a
    teacher of bfloat16, a student that decodes in float16.
    """
    cut = features[:, : lengths.max()]
    return cut.to(next(layer.parameters()).dtype)


def _halved(lengths: Tensor) -> Tensor:
    """Lengths behind a convolution of stride 2 that is padded to keep its size otherwise."""
    return torch.div(lengths - 1, 2, rounding_mode="floor") + 1
