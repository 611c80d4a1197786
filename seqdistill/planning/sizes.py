"""Sizes of transformers, and how many parameters they have, exactly as fairseq builds them."""

from dataclasses import dataclass, replace

from seqdistill.errors import InputError

#: Which of source embedding, target embedding and output projection are one matrix.
SHARING = ("all", "decoder", "none")


@dataclass(frozen=True)
class Stack:
    """An encoder or a decoder.

    Attributes:
        layers: their number.
        width: D, of what a layer takes and gives.
        ffn: inner width of its feed-forward part.
        heads: of its attentions.
        normalize_before: normalise before a sublayer, and once more at the end.
        learned_positions: rows of a learned table of positions; 0 for sinusoids.
    """

    layers: int
    width: int
    ffn: int
    heads: int
    normalize_before: bool = False
    learned_positions: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "ffn", "heads"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"expected at least 1 for a model's {name}, got {getattr(self, name)}"
                )
        if self.width % self.heads:
            raise InputError(
                f"a width of {self.width} is not divided by {self.heads} heads; choose heads that "
                "divide it"
            )


@dataclass(frozen=True)
class Subsampler:
    """fairseq's Conv1dSubsampler: convolutions of stride 2, each followed by a gated linear unit.

    Attributes:
        features: values of a frame.
        channels: between the convolutions.
        kernels: their sizes.
    """

    features: int = 80
    channels: int = 1024
    kernels: tuple[int, ...] = (5, 5)

    def shapes(self, width: int) -> list[tuple[int, int, int]]:
        """Return (channels in, channels out, kernel) of each convolution, ``width`` at the end."""
        last = len(self.kernels) - 1
        return [
            (
                self.features if i == 0 else self.channels // 2,
                self.channels if i < last else 2 * width,
                kernel,
            )
            for i, kernel in enumerate(self.kernels)
        ]

    def lengths(self, frames: int) -> list[int]:
        """Return how many frames come out of each convolution."""
        found = []
        for kernel in self.kernels:
            frames = (frames + 2 * (kernel // 2) - kernel) // 2 + 1
            found.append(frames)
        return found


@dataclass(frozen=True)
class ModelSize:
    """A transformer of fairseq, as far as memory and time depend on it.

    Attributes:
        encoder: its encoder.
        decoder: its decoder.
        sharing: ``all`` embeddings are one matrix with the projection, those of the ``decoder``
            are, or ``none``; speech has no source embeddings, so ``all`` is ``decoder`` there.
        subsampler: of speech; None for text.
        ctc: whether the encoder has a projection for CTC.
        layernorm_embedding: whether embeddings are normalised.
        dropout: of residual connections; what matters is whether there is any.
        attention_dropout: of attention weights.
        activation_dropout: inside the feed-forward part.
        source_vocabulary: of the source, where it is not the target's.
    """

    encoder: Stack
    decoder: Stack
    sharing: str = "all"
    subsampler: Subsampler | None = None
    ctc: bool = False
    layernorm_embedding: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    source_vocabulary: int | None = None

    def __post_init__(self) -> None:
        if self.sharing not in SHARING:
            raise InputError(
                f"expected sharing to be one of {', '.join(SHARING)}, got {self.sharing!r}"
            )
        if self.sharing == "all" and self.subsampler is None:
            if self.encoder.width != self.decoder.width:
                raise InputError(
                    f"all embeddings are shared, but the encoder is {self.encoder.width} wide and "
                    f"the decoder {self.decoder.width}; share those of the decoder only"
                )
            if self.source_vocabulary is not None:
                raise InputError("all embeddings are shared: there is no vocabulary of the source")

    @property
    def is_speech(self) -> bool:
        """Whether the source is audio."""
        return self.subsampler is not None


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has, by part.

    Attributes:
        encoder: all but embeddings.
        decoder: all but embeddings and projection.
        embeddings: tables that are not the projection.
        projection: (V, D), the embeddings' own matrix where it is shared.
    """

    encoder: int
    decoder: int
    embeddings: int
    projection: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.encoder + self.decoder + self.embeddings + self.projection

    @property
    def body(self) -> int:
        """All but the projection."""
        return self.total - self.projection


def attention_parameters(width: int, memory_width: int) -> int:
    """Return those of an attention: queries and output, keys and values, with biases.

    Args:
        width: of the queries.
        memory_width: of what is attended to.
    """
    return 2 * (width * width + width) + 2 * (memory_width * width + width)


def layer_parameters(stack: Stack, memory_width: int | None = None) -> int:
    """Return those of a layer.

    Args:
        stack: encoder or decoder.
        memory_width: of the encoder's output, for a decoder; None for an encoder.
    """
    D, F = stack.width, stack.ffn
    total = attention_parameters(D, D) + 2 * D + (D * F + F) + (F * D + D) + 2 * D
    if memory_width is not None:
        total += attention_parameters(D, memory_width) + 2 * D
    return total


def count_parameters(size: ModelSize, V: int) -> Parameters:
    """Return how many parameters a model has.

    Args:
        size: of the model.
        V: entries of the target vocabulary.

    Raises:
        InputError: a vocabulary without entries.

    Example:
        >>> count_parameters(PRESETS["transformer-big"], 40_000).total
        217317376
    """
    if V < 2:
        raise InputError(f"expected a vocabulary of at least 2 entries, got {V}")
    encoder = size.encoder.layers * layer_parameters(size.encoder) + _extras(size, size.encoder)
    decoder = size.decoder.layers * layer_parameters(size.decoder, size.encoder.width)
    decoder += _extras(size, size.decoder)
    embeddings = 0
    if size.subsampler is not None:
        for inputs, outputs, kernel in size.subsampler.shapes(size.encoder.width):
            encoder += inputs * outputs * kernel + outputs
        if size.ctc:
            encoder += size.encoder.width * V + V
    elif size.sharing != "all":
        embeddings += (size.source_vocabulary or V) * size.encoder.width
    if size.sharing == "none":
        embeddings += V * size.decoder.width
    return Parameters(encoder, decoder, embeddings, V * size.decoder.width)


def _extras(size: ModelSize, stack: Stack) -> int:
    """What a stack has beside layers: final and embedding normalisation, learned positions."""
    total = stack.learned_positions * stack.width
    if stack.normalize_before:
        total += 2 * stack.width
    if size.layernorm_embedding and not size.is_speech:
        total += 2 * stack.width
    return total


def _text(layers: int, width: int, ffn: int, heads: int, **more: float) -> ModelSize:
    stack = Stack(layers, width, ffn, heads)
    return ModelSize(stack, stack, dropout=more.get("dropout", 0.1))


def _speech(
    encoder_layers: int, decoder_layers: int, width: int, ffn: int, heads: int
) -> ModelSize:
    return ModelSize(
        Stack(encoder_layers, width, ffn, heads, normalize_before=True),
        Stack(decoder_layers, width, ffn, heads, normalize_before=True),
        sharing="none",
        subsampler=Subsampler(),
        attention_dropout=0.1,
        activation_dropout=0.1,
    )


#: fairseq's architectures by their sizes; text shares all embeddings, as students of WMT do.
PRESETS: dict[str, ModelSize] = {
    "transformer-base": _text(6, 512, 2048, 8),
    "transformer-big": _text(6, 1024, 4096, 16, dropout=0.3),
    "transformer-iwslt": _text(6, 512, 1024, 4),
    "s2t-xs": _speech(6, 3, 256, 1024, 4),
    "s2t-s": _speech(12, 6, 256, 2048, 4),
    "s2t-m": _speech(12, 6, 512, 2048, 8),
    "s2t-l": _speech(12, 6, 1024, 4096, 16),
}


def preset(name: str) -> ModelSize:
    """Return the size of an architecture.

    Raises:
        InputError: there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(
            f"unknown size {name!r}; there are {', '.join(PRESETS)}, or give the path of a "
            "checkpoint, or the sizes as LAYERS,WIDTH,FFN,HEADS"
        )
    return PRESETS[name]


def text_size(layers: int, width: int, ffn: int, heads: int, sharing: str = "all") -> ModelSize:
    """Return a transformer for text with encoder and decoder alike.

    Raises:
        InputError: a number below 1, or heads that do not divide the width.
    """
    return replace(_text(layers, width, ffn, heads), sharing=sharing)
