"""Members by layers: really smaller models with some of the teacher's layers.

A transformer trained with LayerDrop (Fan, Grave & Joulin 2020) works with layers left out, whole:
attention, feed-forward part and their normalisations, so that what goes into a layer comes out of
it. That is the same for post-norm and pre-norm; of pre-norm the normalisation after the last layer
belongs to the stack and stays.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.teachers.cheap.checkpoint import SIDES, Teacher

#: Ends the name of what a layer trained with ``--layer-gates`` has: the logit of keeping it.
GATE = "gate.logit"

# Draws until a structure is new: after so many the probabilities are all but certain.
_DRAWS = 500


@dataclass(frozen=True)
class Structure:
    """Which layers a member has.

    Attributes:
        encoder: numbers of the kept layers, from 0, in order.
        decoder: likewise.
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]


def keep_probabilities(
    teacher: Teacher, drop: float | None = None
) -> tuple[dict[str, list[float]], str]:
    """Return how likely each layer is kept, and where that comes from.

    Args:
        teacher: with gates, or trained with LayerDrop.
        drop: probability of leaving a layer out, instead of the teacher's own.

    Returns:
        Side → a probability for each layer; and ``gates``, ``layerdrop`` or ``option``.

    Raises:
        InputError: a bad ``drop``; or none, of a teacher that has neither gates nor LayerDrop.
    """
    if drop is not None:
        if not 0 < drop < 1:
            raise InputError(f"expected a probability of leaving a layer out in (0, 1), got {drop}")
        return {side: [1 - drop] * len(teacher.layers(side)) for side in SIDES}, "option"
    gates = {
        side: [teacher.weights[prefix + GATE] for prefix in teacher.layers(side)
               if prefix + GATE in teacher.weights]
        for side in SIDES
    }  # fmt: skip
    if any(gates.values()):
        return {
            side: [float(torch.sigmoid(logit.double())) for logit in gates[side]]
            or [1.0] * len(teacher.layers(side))
            for side in SIDES
        }, "gates"
    rates = {side: float(teacher.settings.get(f"{side}_layerdrop") or 0.0) for side in SIDES}
    if not any(rates.values()):
        raise InputError(
            f"{teacher.path}: was trained without LayerDrop (--encoder-layerdrop, "
            "--decoder-layerdrop) and without --layer-gates; give --drop P to leave layers out all "
            "the same, at the cost of quality"
        )
    return {side: [1 - rates[side]] * len(teacher.layers(side)) for side in SIDES}, "layerdrop"


def has_gates(weights: Mapping[str, Tensor]) -> bool:
    """Whether a model's layers have gates.

    Example:
        >>> has_gates({"encoder.layers.0.gate.logit": torch.tensor(1.0)})
        True
    """
    return any(name.endswith(f".{GATE}") for name in weights)


def draw_structures(
    keep: Mapping[str, Sequence[float]], *, count: int, seed: int
) -> list[Structure]:
    """Draw different structures: each layer is kept or not by itself.

    A structure that was drawn before, or that has no layer on one side, is drawn again; so the
    members are a sample without repetition, and the first ones do not depend on their number.

    Args:
        keep: side → probability of keeping, for each layer.
        count: structures.
        seed: of the draws.

    Raises:
        InputError: there are fewer structures than that.

    Example:
        >>> draw_structures({"encoder": [0.5, 0.5], "decoder": [1.0]}, count=2, seed=1)
        [Structure(encoder=(0,), decoder=(0,)), Structure(encoder=(1,), decoder=(0,))]
    """
    possible = _possible(keep)
    if count > possible:
        raise InputError(
            f"{count} members were asked for, but only {possible} different structures can be "
            "drawn from these layers; lower --count, or use dropout members"
        )
    digest = hashlib.sha256(f"layers/{seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    probabilities = {side: torch.tensor(keep[side], dtype=torch.float64) for side in SIDES}
    found: dict[Structure, None] = {}
    for _ in range(_DRAWS * count):
        drawn = {}
        for side, probability in probabilities.items():
            numbers = torch.rand(len(probability), dtype=torch.float64, generator=generator)
            drawn[side] = tuple((numbers < probability).nonzero().flatten().tolist())
        if all(drawn.values()):
            found[Structure(**drawn)] = None
        if len(found) == count:
            return list(found)
    raise InputError(
        f"{count} members were asked for, but {_DRAWS * count} draws gave {len(found)} different "
        "structures: the layers' probabilities are all but certain; lower --count, or give --drop"
    )


def keep_layers(teacher: Teacher, structure: Structure) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of a member, its layers numbered anew, and the settings that change.

    Args:
        teacher: whose layers they are.
        structure: which stay.

    Returns:
        Name → tensor, without gates; fairseq's names of settings → values.

    Example:
        >>> from seqdistill.teachers.cheap import read_teacher
        >>> weights, settings = keep_layers(
        ...     read_teacher("teacher.pt"), Structure((0, 2), (1,))
        ... )  # doctest: +SKIP
    """
    new_prefixes: dict[str, str | None] = {}
    settings: dict[str, Any] = {}
    for side in SIDES:
        prefixes, kept = teacher.layers(side), getattr(structure, side)
        places = {number: place for place, number in enumerate(kept)}
        for number, prefix in enumerate(prefixes):
            place = places.get(number)
            new_prefixes[prefix] = None if place is None else prefixes[place]
        settings |= {f"{side}_layers": len(kept), f"{side}_layers_to_keep": None}
    weights = {}
    for name, weight in teacher.weights.items():
        old = next((prefix for prefix in new_prefixes if name.startswith(prefix)), "")
        new = new_prefixes.get(old, "")
        if new is not None and not (old and name == old + GATE):
            weights[new + name.removeprefix(old)] = weight
    return weights, settings


def _possible(keep: Mapping[str, Sequence[float]]) -> int:
    """How many structures have a probability above 0 and a layer on each side."""
    total = 1
    for side in SIDES:
        free = sum(0 < p < 1 for p in keep[side])
        total *= 2**free - (0 if any(p >= 1 for p in keep[side]) else 1)
    return total
