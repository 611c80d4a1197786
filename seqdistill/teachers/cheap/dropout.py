r"""Members by dropout: one fixed mask a member, folded into the weights.

Dropout multiplies units by z/(1-p), z ~ Bernoulli(1-p). A mask that is drawn once and kept for all
tokens is a sample of weights, W diag(z), from the distribution that dropout training fits (Gal &
Ghahramani 2016, "Dropout as a Bayesian approximation" and "A theoretically grounded application of
dropout in recurrent neural networks"). Where the units come out of an affine map, or go into one,
the mask is multiplied into that map, so that a member is an ordinary model without dropout.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.teachers.cheap.checkpoint import SIDES, Teacher

#: fairseq's index of padding, in every dictionary; its positions are counted from the next one.
PADDING = 1


@dataclass(frozen=True)
class Site:
    """A place where dropout acts.

    Attributes:
        name: encoder or decoder, the layer, and the sublayer whose output is masked, such as
            ``encoder.layers.0.self_attn``; ``…activation`` is inside the feed-forward part,
            ``encoder.embedding`` before the first layer.
        rate: p, in (0, 1).
        width: units.
        folds: weights that the mask is multiplied into, each with the dimension it runs along.
    """

    name: str
    rate: float
    width: int
    folds: tuple[tuple[str, int], ...]


def find_sites(
    teacher: Teacher, *, rate: float | None = None, embeddings: bool = True
) -> tuple[list[Site], list[str]]:
    """Return where the teacher's dropout can be folded, and where it cannot, and why.

    Args:
        teacher: made ready by :func:`free_inputs`, if ``embeddings``.
        rate: p of embeddings and sublayers instead of the teacher's ``dropout``.
        embeddings: fold that of the embeddings, too.

    Returns:
        The sites; and a line for each kind of dropout that members do not have.

    Raises:
        InputError: the teacher has no dropout that can be folded.

    Example:
        >>> from seqdistill.teachers.cheap import read_teacher
        >>> find_sites(read_teacher("teacher.pt"))  # doctest: +SKIP
        ([Site(name='encoder.embedding', rate=0.2, width=128, folds=...
    """
    settings = teacher.settings
    p = _rate(settings, "dropout") if rate is None else rate
    inner = _rate(settings, "activation_dropout") or _rate(settings, "relu_dropout")
    if not 0 <= p < 1:
        raise InputError(f"expected a rate of dropout from 0 to below 1, got {p:g}")
    sites: list[Site] = []
    missing: list[str] = []
    for side in SIDES:
        if p > 0:
            folds = _embedding_folds(teacher, side) if embeddings else ()
            if folds:
                sites.append(_site(teacher, f"{side}.embedding", p, folds))
            else:
                missing.append(f"{side}.embedding: {_why_not(teacher, side, embeddings)}")
        for prefix in teacher.layers(side):
            sites += _layer_sites(teacher, prefix, p, inner, missing)
    attention = _rate(settings, "attention_dropout")
    if attention > 0:
        missing.append(
            f"attention: its dropout ({attention:g}) is of pairs of positions, not of units"
        )
    if not sites:
        raise InputError(
            f"{teacher.path}: was trained without dropout that can be folded into weights; give "
            "--rate P, the share of units to drop, or make members of its layers"
        )
    return sites, missing


def free_inputs(teacher: Teacher) -> Teacher:
    """Return the same model with embeddings that each side can have masked by itself.

    Tables that the sides and the projection share become one for each, and sinusoids a table of
    learned positions with their values, as long as the longest sentence that the model takes. Where
    embeddings are normalised nothing is needed: the normalisation's weights take the mask.

    Example:
        >>> from seqdistill.teachers.cheap import read_teacher
        >>> free_inputs(read_teacher("teacher.pt")).settings[
        ...     "share_all_embeddings"
        ... ]  # doctest: +SKIP
        False
    """
    weights, changes = dict(teacher.weights), {}
    for side in SIDES:
        if not _can_be_freed(teacher, side):
            continue
        table = weights[f"{side}.embed_tokens.weight"]
        positions = f"{side}.embed_positions.weight"
        if positions not in weights and not teacher.settings.get("no_token_positional_embeddings"):
            kind = "source" if side == "encoder" else "target"
            rows = int(teacher.settings[f"max_{kind}_positions"]) + PADDING + 1
            weights[positions] = sinusoids(rows, int(table.shape[1])).to(table.dtype)
            changes[f"{side}_learned_pos"] = True
        if teacher.settings.get("share_all_embeddings"):
            changes |= {"share_all_embeddings": False, "merge_src_tgt_embed": False}
        weights.setdefault(
            "decoder.output_projection.weight", weights["decoder.embed_tokens.weight"]
        )
        changes["share_decoder_input_output_embed"] = False
    return replace(teacher, weights=weights, settings=teacher.settings | changes)


def draw_masks(sites: list[Site], *, seed: int, member: int) -> dict[str, Tensor]:
    """Draw a member's masks: z/(1-p), z ~ Bernoulli(1-p) of every unit.

    Each site has a stream of its own, so that a mask depends on nothing but the arguments and the
    site's name.

    Args:
        sites: where dropout acts.
        seed: of all members.
        member: 1, 2, ….

    Returns:
        Site's name → (width,) float32.

    Example:
        >>> site = Site("encoder.embedding", 0.5, 6, ())
        >>> draw_masks([site], seed=1, member=1)["encoder.embedding"].tolist()
        [2.0, 0.0, 0.0, 0.0, 0.0, 2.0]
    """
    return {site.name: _mask(site, seed, member) for site in sites}


def fold_masks(
    weights: Mapping[str, Tensor], sites: list[Site], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of a model that does without masks what the given one does with them.

    Args:
        weights: name → tensor; not changed.
        sites: where dropout acts.
        masks: site's name → (width,).

    Example:
        >>> site = Site("fc2", 0.5, 2, (("fc2.weight", 0), ("fc2.bias", 0)))
        >>> layer = {"fc2.weight": torch.ones(2, 1), "fc2.bias": torch.ones(2)}
        >>> fold_masks(layer, [site], {"fc2": torch.tensor([0.0, 2.0])})["fc2.bias"].tolist()
        [0.0, 2.0]
    """
    folded = dict(weights)
    for site in sites:
        for name, dimension in site.folds:
            weight = folded[name]
            shape = [1] * weight.dim()
            shape[dimension] = -1
            # In float32 and more: the scale 1/(1-p) is not rounded to a weight of 16 bits first.
            mask = masks[site.name].view(shape)
            folded[name] = (weight.to(torch.promote_types(weight.dtype, mask.dtype)) * mask).to(
                weight.dtype
            )
    return folded


def sinusoids(rows: int, width: int) -> Tensor:
    """Return the positions that fairseq's transformer computes, as a table.

    Row t is (sin tω_0, …, cos tω_0, …), ω_i = 10000^(-i/(width/2 - 1)); that of padding is 0.

    Args:
        rows: of the table, (rows, width).
        width: of an embedding, at least 4.

    Example:
        >>> sinusoids(3, 4)[2].round(decimals=3).tolist() == torch.tensor(
        ...     [0.909, 0.0, -0.416, 1.0]
        ... ).tolist()
        True
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(rows, dtype=torch.float)[:, None] * rates
    table = torch.zeros(rows, width)
    table[:, :half], table[:, half : 2 * half] = angles.sin(), angles.cos()
    table[PADDING] = 0
    return table


def _mask(site: Site, seed: int, member: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{member}/{site.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    kept = torch.rand(site.width, generator=generator) >= site.rate
    return kept.float() / (1 - site.rate)


def _rate(settings: Mapping[str, Any], name: str) -> float:
    return float(settings.get(name) or 0.0)


def _site(teacher: Teacher, name: str, rate: float, folds: tuple[tuple[str, int], ...]) -> Site:
    weight, dimension = folds[0]
    return Site(name, rate, int(teacher.weights[weight].shape[dimension]), folds)


def _layer_sites(
    teacher: Teacher, prefix: str, p: float, inner: float, missing: list[str]
) -> Iterator[Site]:
    weights = teacher.weights
    if p > 0:
        for part, last in (
            # A normalisation between attention and dropout (--scale-attn) takes the mask.
            ("self_attn", ("attn_ln", "self_attn.out_proj")),
            ("encoder_attn", ("encoder_attn.out_proj",)),
            ("fc2", ("fc2",)),
        ):
            for map_name in last:
                folds = tuple(
                    (f"{prefix}{map_name}.{kind}", 0)
                    for kind in ("weight", "bias")
                    if f"{prefix}{map_name}.{kind}" in weights
                )
                if folds:
                    yield _site(teacher, prefix + part, p, folds)
                    break
    if inner > 0:
        if f"{prefix}ffn_layernorm.weight" in weights:
            missing.append(f"{prefix}activation: its dropout ({inner:g}) is before a normalisation")
        else:
            yield _site(teacher, prefix + "activation", inner, ((f"{prefix}fc2.weight", 1),))


def _can_be_freed(teacher: Teacher, side: str) -> bool:
    """Whether a side's embeddings can be masked, but not in the form that they have."""
    return (
        f"{side}.embed_tokens.weight" in teacher.weights
        and not _is_normalised(teacher, side)
        and not teacher.settings.get("adaptive_softmax_cutoff")  # its tables are the decoder's
    )


def _is_normalised(teacher: Teacher, side: str) -> bool:
    return f"{side}.layernorm_embedding.weight" in teacher.weights


def _embedding_folds(teacher: Teacher, side: str) -> tuple[tuple[str, int], ...]:
    """Where the mask of a side's embeddings goes; empty if nowhere."""
    if _is_normalised(teacher, side):
        return tuple((f"{side}.layernorm_embedding.{kind}", 0) for kind in ("weight", "bias"))
    settings = teacher.settings
    is_shared = settings.get("share_all_embeddings") or (
        side == "decoder" and settings.get("share_decoder_input_output_embed")
    )
    positions = f"{side}.embed_positions.weight"
    has_none = bool(settings.get("no_token_positional_embeddings"))
    if is_shared or not _can_be_freed(teacher, side):
        return ()
    if positions not in teacher.weights and not has_none:
        return ()
    tables = ((f"{side}.embed_tokens.weight", 1), (positions, 1))
    return tuple((name, at) for name, at in tables if name in teacher.weights)


def _why_not(teacher: Teacher, side: str, embeddings: bool) -> str:
    if not embeddings:
        return "left as it is (--keep-embeddings)"
    if any(name.startswith(f"{side}.subsample.") for name in teacher.weights):
        return "speech: what is masked is the sum of frames and computed positions"
    return "adaptive embeddings do not take a mask"
