"""Tiny random fairseq transformers and batches, built in memory."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture

from seqdistill.student import StudentHead

VOCABULARY = 24


def tiny_dictionary(size: int = VOCABULARY) -> Dictionary:
    """A dictionary of sentencepiece-like pieces; every third one begins a word."""
    dictionary = Dictionary()
    for number in range(size - dictionary.nspecial):
        dictionary.add_symbol(("▁" if number % 3 == 0 else "") + f"p{number}", n=size - number)
    return dictionary


def tiny_settings() -> Namespace:
    """The architecture of :func:`tiny_model`, as fairseq saves it in a checkpoint."""
    args = Namespace(
        arch="transformer", task="translation", criterion="cross_entropy", optimizer="adam",
        encoder_layers=1, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16,
        encoder_ffn_embed_dim=32, decoder_ffn_embed_dim=32, encoder_attention_heads=2,
        decoder_attention_heads=2, dropout=0.1, max_source_positions=64, max_target_positions=64,
    )  # fmt: skip
    base_architecture(args)
    return args


def save_checkpoint(path: Path, model: Any) -> None:
    """Save a tiny model as fairseq's training does, with its head if it has one."""
    head = model.student_head
    torch.save(
        {
            "args": tiny_settings(),
            "model": model.state_dict(),
            "optimizer_history": [
                {
                    "criterion_name": "CrossEntropyCriterion",
                    "optimizer_name": "FairseqAdam",
                    "lr_scheduler_state": {},
                    "num_updates": 1,
                }
            ],
            "extra_state": {"train_iterator": {"epoch": 1}},
            "task_state": {} if head is None else {"student_head": head.to_dict()},
        },
        path,
    )


def tiny_model(
    seed: int,
    dictionary: Dictionary,
    head: StudentHead | None = None,
    sharpness: float = 6.0,
) -> Any:
    """A transformer of 1 + 1 layers and d = 16 with random weights.

    Args:
        seed: of the weights.
        dictionary: of both sides.
        head: what to carry as ``student_head``; None for an ordinary model.
        sharpness: factor of the output layer's weights: random models predict nearly uniformly.
    """
    args = tiny_settings()
    torch.manual_seed(seed)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model = TransformerModel.build_model(args, task)
    with torch.no_grad():
        model.decoder.output_projection.weight.mul_(sharpness)
        # Attention to the source is weak in a random model; make outputs depend on it.
        model.encoder.embed_tokens.weight.mul_(4.0)
    model.student_head = head
    return model.eval()


def tiny_batch(
    dictionary: Dictionary, lengths: list[int], seed: int = 0, with_target: bool = False
) -> dict[str, Any]:
    """A batch of random sentences of the given lengths, sources padded on the left."""
    generator = torch.Generator().manual_seed(seed)

    def sentences(sizes: list[int]) -> list[torch.Tensor]:
        eos = torch.tensor([dictionary.eos()])
        return [
            torch.cat(
                [
                    torch.randint(dictionary.nspecial, len(dictionary), (n,), generator=generator),
                    eos,
                ]
            )
            for n in sizes
        ]

    source = sentences(lengths)
    target = sentences([n + 1 for n in lengths]) if with_target else None
    return collate(dictionary, source, target)


def collate(
    dictionary: Dictionary, source: list[torch.Tensor], target: list[torch.Tensor] | None
) -> dict[str, Any]:
    """Make fairseq's batch of sentences, kept in the order given."""
    dataset = LanguagePairDataset(
        source,
        [len(s) for s in source],
        dictionary,
        tgt=target,
        tgt_sizes=None if target is None else [len(t) for t in target],
        tgt_dict=dictionary,
        shuffle=False,
    )
    sample = dataset.collater([dataset[i] for i in range(len(dataset))])
    order = torch.argsort(sample["id"])  # the collater sorts by length
    sample["id"] = sample["id"][order]
    for name, value in sample["net_input"].items():
        sample["net_input"][name] = value[order]
    if sample.get("target") is not None:
        sample["target"] = sample["target"][order]
    return sample
