"""Cheap teachers: members made of one trained model, written as ordinary checkpoints."""

from seqdistill.teachers.cheap.checkpoint import Teacher, read_teacher
from seqdistill.teachers.cheap.dropout import Site, draw_masks, find_sites, fold_masks, free_inputs
from seqdistill.teachers.cheap.layers import Structure, draw_structures, keep_layers

__all__ = [
    "Site",
    "Structure",
    "Teacher",
    "draw_masks",
    "draw_structures",
    "find_sites",
    "fold_masks",
    "free_inputs",
    "keep_layers",
    "read_teacher",
]
