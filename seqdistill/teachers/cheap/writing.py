"""Members on disk: ``member1.pt`` … and ``members.json``, which says how they were made."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import seqdistill
from seqdistill.errors import InputError
from seqdistill.files import json_to_bytes, sha256_of_file, write_whole
from seqdistill.teachers.cheap.checkpoint import Teacher
from seqdistill.teachers.cheap.dropout import draw_masks, find_sites, fold_masks, free_inputs
from seqdistill.teachers.cheap.layers import (
    draw_structures,
    has_gates,
    keep_layers,
    keep_probabilities,
)

SCHEMA = "seqdistill.members/1"
RECORD = "members.json"


def dropout_members(
    teacher: Teacher,
    folder: Path,
    *,
    count: int,
    seed: int,
    rate: float | None = None,
    embeddings: bool = True,
) -> dict[str, Any]:
    """Write members with fixed dropout masks; return what ``members.json`` says.

    Args:
        teacher: whose weights are masked.
        folder: for the files; see :func:`prepare_folder`.
        count: members.
        seed: of the masks.
        rate: p of embeddings and sublayers; None: the teacher's ``dropout``.
        embeddings: mask embeddings, too, for which shared tables become several.

    Raises:
        InputError: the teacher has no dropout that can be folded, or it has gates.
    """
    if has_gates(teacher.weights):
        raise InputError(
            f"{teacher.path}: its layers have gates, which decide what a member is: make members "
            "with `seqdistill members layers`, and dropout members of one of them"
        )
    original = teacher
    if embeddings:
        teacher = free_inputs(teacher)
    sites, missing = find_sites(teacher, rate=rate, embeddings=embeddings)
    changes = {
        name: value
        for name, value in teacher.settings.items()
        if original.settings.get(name) != value
    }

    def states() -> Iterable[tuple[Any, dict[str, Any]]]:
        for member in range(1, count + 1):
            masks = draw_masks(sites, seed=seed, member=member)
            state = teacher.checkpoint(fold_masks(teacher.weights, sites, masks), changes)
            dropped = sum(int((mask == 0).sum()) for mask in masks.values())
            yield state, {"dropped_units": dropped}

    facts = {
        "kind": "dropout",
        "seed": seed,
        "sites": {site.name: {"rate": site.rate, "units": site.width} for site in sites},
        "not_folded": missing,
    }
    return _write(original, folder, facts, states())


def layer_members(
    teacher: Teacher, folder: Path, *, count: int, seed: int, drop: float | None = None
) -> dict[str, Any]:
    """Write members with some of the layers; return what ``members.json`` says.

    Args:
        teacher: whose layers they are.
        folder: for the files; see :func:`prepare_folder`.
        count: members.
        seed: of the structures.
        drop: probability of leaving a layer out; None: the teacher's gates or its LayerDrop.

    Raises:
        InputError: the teacher has neither, or too few layers.
    """
    keep, origin = keep_probabilities(teacher, drop)
    structures = draw_structures(keep, count=count, seed=seed)

    def states() -> Iterable[tuple[Any, dict[str, Any]]]:
        for structure in structures:
            yield (
                teacher.checkpoint(*keep_layers(teacher, structure)),
                {"encoder_layers": structure.encoder, "decoder_layers": structure.decoder},
            )

    facts = {"kind": "layers", "seed": seed, "keep_probabilities": keep, "from": origin}
    return _write(teacher, folder, facts, states())


def prepare_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the folder, or remove the members that it holds.

    Raises:
        InputError: it has files that are no members, or members and ``overwrite`` is False.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    members = [path for path in files if path.name == RECORD or path.match("member[0-9]*.pt")]
    if len(members) != len(files):
        raise InputError(
            f"{folder}: holds other files than members; give a folder that is new or empty"
        )
    if members and not overwrite:
        raise InputError(f"{folder} has members already; pass --overwrite to replace them")
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(members):  # members.json first: without it a folder is not finished
        path.unlink()


def _write(
    teacher: Teacher,
    folder: Path,
    facts: dict[str, Any],
    states: Iterable[tuple[Any, dict[str, Any]]],
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "seqdistill": seqdistill.__version__,
        **facts,
        "teacher": {"path": teacher.path, "sha256": sha256_of_file(Path(teacher.path))},
        "members": [],
    }
    for number, (state, about) in enumerate(states, start=1):
        path = folder / f"member{number}.pt"
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(path, buffer.getvalue())
        record["members"].append({"file": path.name, "sha256": sha256_of_file(path), **about})
    write_whole(folder / RECORD, json_to_bytes(record))
    return record
