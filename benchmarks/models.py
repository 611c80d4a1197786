"""Transformers of fairseq without data: a student, teachers, and batches of random tokens."""

from argparse import Namespace
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture
from torch import Tensor


@dataclass(frozen=True)
class Architecture:
    """Sizes of encoder and decoder; the defaults are fairseq's ``transformer``, the base model."""

    layers: int = 6
    width: int = 512
    ffn: int = 2048
    heads: int = 8
    dropout: float = 0.1


@dataclass(frozen=True)
class Batch:
    """Sentences of equal length without padding.

    Attributes:
        net_input: what the model takes.
        target: (B, T) reference pieces.
    """

    net_input: dict[str, Tensor]
    target: Tensor


def random_dictionary(V: int) -> Dictionary:
    """Return a dictionary of V entries, fairseq's special ones included."""
    dictionary = Dictionary()
    for number in range(V - dictionary.nspecial):
        dictionary.add_symbol(f"piece{number}")
    return dictionary


def random_model(
    architecture: Architecture, dictionary: Dictionary, positions: int, seed: int
) -> Any:
    """Return a transformer with fairseq's initial weights, all embeddings tied.

    Args:
        architecture: its sizes.
        dictionary: of both sides.
        positions: the longest sentence.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    args = Namespace(
        encoder_layers=architecture.layers,
        decoder_layers=architecture.layers,
        encoder_embed_dim=architecture.width,
        decoder_embed_dim=architecture.width,
        encoder_ffn_embed_dim=architecture.ffn,
        decoder_ffn_embed_dim=architecture.ffn,
        encoder_attention_heads=architecture.heads,
        decoder_attention_heads=architecture.heads,
        dropout=architecture.dropout,
        share_all_embeddings=True,
        max_source_positions=positions,
        max_target_positions=positions,
    )
    base_architecture(args)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return TransformerModel.build_model(args, task)


def random_batch(dictionary: Dictionary, B: int, T: int, seed: int) -> Batch:
    """Return B sentences of T random tokens on either side.

    Args:
        dictionary: whose ordinary pieces are drawn.
        B: sentences.
        T: positions, of source and target.
        seed: of the tokens.
    """
    generator = torch.Generator().manual_seed(seed)

    def tokens() -> Tensor:
        return torch.randint(dictionary.nspecial, len(dictionary), (B, T), generator=generator)

    source, target = tokens(), tokens()
    previous = target.roll(1, 1)
    previous[:, 0] = dictionary.eos()
    net_input = {
        "src_tokens": source,
        "src_lengths": torch.full((B,), T),
        "prev_output_tokens": previous,
    }
    return Batch(net_input, target)


def to_device(batch: Batch, device: str) -> Batch:
    """Return the batch on a device."""
    net_input = {name: value.to(device) for name, value in batch.net_input.items()}
    return Batch(net_input, batch.target.to(device))
