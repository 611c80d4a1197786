"""Floating-point operations of matrix products, counted: two for each multiply-add.

Products are what :class:`torch.utils.flop_counter.FlopCounterMode` counts, too: linear layers,
both products of an attention (a causal one whole, masked entries included: the kernels that take a
mask compute them), convolutions. A backward pass has two products for each of the forward pass.
"""

from dataclasses import dataclass

from seqdistill.planning.sizes import ModelSize, Stack


@dataclass(frozen=True)
class Batch:
    """What a rank sees in one forward pass; rows are padded to the longest.

    Attributes:
        sentences: B.
        source: positions of a source; frames for speech.
        target: positions of a target, T.
    """

    sentences: int
    source: int
    target: int

    @property
    def target_tokens(self) -> int:
        """N = B · T."""
        return self.sentences * self.target

    def encoder_length(self, size: ModelSize) -> int:
        """Return the positions of the encoder's layers."""
        if size.subsampler is None:
            return self.source
        return size.subsampler.lengths(self.source)[-1]

    def times(self, factor: int) -> "Batch":
        """Return the batch of ``factor`` ranks together."""
        return Batch(self.sentences * factor, self.source, self.target)


@dataclass(frozen=True)
class BodyFlops:
    """A model without its projection to the vocabulary.

    Attributes:
        layers: forward, of encoder and decoder layers.
        front: forward, of the subsampler and the projection for CTC; 0 for text.
        front_backward: backward of these: nothing wants the gradient of the audio.
    """

    layers: int
    front: int
    front_backward: int

    @property
    def forward(self) -> int:
        """Of a forward pass."""
        return self.layers + self.front

    @property
    def backward(self) -> int:
        """Of a backward pass, nothing computed twice."""
        return 2 * self.layers + self.front_backward

    @property
    def recomputed(self) -> int:
        """What activation checkpointing computes once more."""
        return self.layers


def body_flops(size: ModelSize, batch: Batch, V: int) -> BodyFlops:
    """Return the operations of a model up to its features.

    Args:
        size: of the model.
        batch: what it sees.
        V: vocabulary size, for CTC.
    """
    B, S, T = batch.sentences, batch.encoder_length(size), batch.target
    encoder, decoder = size.encoder, size.decoder
    layers = encoder.layers * (_attention(B, S, S, encoder.width) + _ffn(B * S, encoder))
    layers += decoder.layers * (
        _attention(B, T, T, decoder.width)
        + _attention(B, T, S, decoder.width, memory_width=encoder.width)
        + _ffn(B * T, decoder)
    )
    front = backward = 0
    if size.subsampler is not None:
        shapes = size.subsampler.shapes(encoder.width)
        lengths = size.subsampler.lengths(batch.source)
        for i, ((inputs, outputs, kernel), length) in enumerate(zip(shapes, lengths, strict=True)):
            one = 2 * B * length * inputs * outputs * kernel
            front += one
            backward += one if i == 0 else 2 * one
        if size.ctc:
            one = 2 * B * S * encoder.width * V
            front += one
            backward += 2 * one
    return BodyFlops(layers, front, backward)


def projection_flops(tokens: int, V: int, width: int) -> int:
    """Return the operations of features · projectionᵀ.

    Args:
        tokens: N.
        V: vocabulary size.
        width: D.
    """
    return 2 * tokens * V * width


def _attention(B: int, queries: int, keys: int, width: int, memory_width: int | None = None) -> int:
    memory_width = width if memory_width is None else memory_width
    linear = 2 * B * (queries * 2 * width * width + keys * 2 * memory_width * width)
    return linear + 4 * B * queries * keys * width


def _ffn(tokens: int, stack: Stack) -> int:
    return 4 * tokens * stack.width * stack.ffn
