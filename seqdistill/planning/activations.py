"""Bytes that a forward pass leaves for the backward pass, counted tensor by tensor.

A layer of N tokens and width D keeps for its attention queries, keys, values and what comes out of
it (4), for each sublayer what its normalisation takes and gives (2 and 2, and for an attention to
the encoder 2 more, with its queries and output 2, and keys and values over the source), and inside
the feed-forward part N · F once. Each dropout keeps its mask: one byte an element on a GPU, a whole
number on a CPU. An attention to the encoder is not fused in fairseq: its weights (B, H, T, S) are
kept in float32, and once more wherever they are cast or dropped. The other attentions are fused; on
a CPU they are not where attention weights are dropped.
"""

from dataclasses import dataclass

from seqdistill.planning.flops import Batch
from seqdistill.planning.sizes import ModelSize, Stack

_FLOAT32 = 4


@dataclass(frozen=True)
class Activations:
    """Of a student's forward pass, in bytes.

    Attributes:
        layers: what all layers keep.
        front: embeddings, subsampler, the encoder's output, normalisations at the ends.
        largest_layer: what the largest layer keeps: what is recomputed at a time.
        inputs: what layers keep where they are recomputed: what they were given.
        transient: temporaries at a time, beside what is kept.
    """

    layers: int
    front: int
    largest_layer: int
    inputs: int
    transient: int

    def kept(self, checkpointing: bool) -> int:
        """Return what is held between the passes."""
        return self.front + (self.inputs if checkpointing else self.layers)

    def at_backward(self, checkpointing: bool) -> int:
        """Return what is held when the backward pass begins with the last layer."""
        return self.kept(checkpointing) + (self.largest_layer if checkpointing else 0)


def activation_bytes(
    size: ModelSize, batch: Batch, element_bytes: int, on_cpu: bool = False
) -> Activations:
    """Return what the body of a student keeps for its backward pass.

    Args:
        size: of the student.
        batch: what a rank sees.
        element_bytes: of an activation, 4 or 2.
        on_cpu: whether the kernels are those of a CPU.
    """
    e = element_bytes
    mask = e if on_cpu else 1
    B, S, T = batch.sentences, batch.encoder_length(size), batch.target
    encoder, decoder = size.encoder, size.decoder

    def drop(elements: int, p: float) -> int:
        return elements * mask if p > 0 else 0

    def common(stack: Stack, length: int) -> int:
        """Attention of a stack to itself and feed-forward part, normalisations included."""
        N, D, F = B * length, stack.width, stack.ffn
        total = 8 * N * D * e + N * F * e + 2 * drop(N * D, size.dropout)
        total += N * stack.heads * _FLOAT32 + 4 * N * _FLOAT32  # log-sums, means, deviations
        if size.activation_dropout > 0:
            total += drop(N * F, size.activation_dropout) + N * F * e
        if on_cpu and size.attention_dropout > 0:
            weights = B * stack.heads * length * length
            total += 3 * weights * e
        return total

    encoder_layer = common(encoder, S)
    decoder_layer = common(decoder, T)
    N, D = B * T, decoder.width
    weights = B * decoder.heads * T * S
    decoder_layer += 4 * N * D * e + 2 * B * S * D * e + drop(N * D, size.dropout)
    decoder_layer += weights * _FLOAT32 + 2 * N * _FLOAT32
    if e < _FLOAT32:
        decoder_layer += weights * e
    if size.attention_dropout > 0:
        decoder_layer += drop(weights, size.attention_dropout) + weights * e

    front = B * S * encoder.width * e + N * D * e  # the encoder's output, the features
    front += drop(B * S * encoder.width, size.dropout) + drop(N * D, size.dropout)
    for stack, tokens in ((encoder, B * S), (decoder, N)):
        # What the last normalisation was given; or, without the first one, two copies of what the
        # first attention was given, in (T, B, D) order.
        front += (1 if stack.normalize_before else 2) * tokens * stack.width * e
    if size.subsampler is not None:
        lengths = size.subsampler.lengths(batch.source)
        front += B * batch.source * size.subsampler.features * e
        for (_, outputs, _), length in zip(
            size.subsampler.shapes(encoder.width), lengths, strict=True
        ):
            front += B * length * (outputs + outputs // 2) * e
    transient = max(
        B * S * (2 * encoder.ffn + 3 * encoder.width) * e,
        N * (2 * decoder.ffn + 3 * D) * e,
        3 * weights * _FLOAT32 + 3 * N * D * e,
    )
    return Activations(
        layers=encoder.layers * encoder_layer + decoder.layers * decoder_layer,
        front=front,
        largest_layer=max(encoder_layer, decoder_layer),
        inputs=encoder.layers * B * S * encoder.width * e + decoder.layers * N * D * e,
        transient=transient,
    )


def inference_bytes(size: ModelSize, batch: Batch, element_bytes: int) -> int:
    """Return what running a frozen teacher holds at its largest, its output included.

    The decoder returns what every layer gave, and that is held until its features are taken.

    Args:
        size: of the teacher.
        batch: what it sees.
        element_bytes: of an activation.
    """
    e = element_bytes
    B, S, T = batch.sentences, batch.encoder_length(size), batch.target
    encoder, decoder = size.encoder, size.decoder
    weights = B * decoder.heads * T * S * _FLOAT32
    working = max(
        B * S * (2 * encoder.ffn + 3 * encoder.width) * e,
        B * T * (2 * decoder.ffn + 3 * decoder.width) * e + 2 * weights,
    )
    if size.subsampler is not None:
        first = size.subsampler.lengths(batch.source)[0]
        working = max(working, 2 * B * first * size.subsampler.channels * e)
    held = B * S * encoder.width * e + (decoder.layers + 2) * B * T * decoder.width * e
    return working + held
