"""Planning: memory and time of a distillation, predicted from counted operations and bytes.

Nothing here runs a model. What cannot be counted is a named assumption
(:class:`~seqdistill.planning.machines.Assumptions`).
"""

from seqdistill.planning.machines import MACHINES, Assumptions, Machine, machine
from seqdistill.planning.memory import Memory, memory
from seqdistill.planning.plans import Plan, make_plan, require_fit
from seqdistill.planning.sizes import (
    PRESETS,
    ModelSize,
    Parameters,
    Stack,
    Subsampler,
    count_parameters,
    preset,
    text_size,
)
from seqdistill.planning.times import Times, times
from seqdistill.planning.traffic import Traffic, collective_bytes, traffic
from seqdistill.planning.training import Training
from seqdistill.teachers.placement import PLACEMENTS

__all__ = [
    "MACHINES",
    "PLACEMENTS",
    "PRESETS",
    "Assumptions",
    "Machine",
    "Memory",
    "ModelSize",
    "Parameters",
    "Plan",
    "Stack",
    "Subsampler",
    "Times",
    "Traffic",
    "Training",
    "collective_bytes",
    "count_parameters",
    "machine",
    "make_plan",
    "memory",
    "preset",
    "require_fit",
    "text_size",
    "times",
    "traffic",
]
