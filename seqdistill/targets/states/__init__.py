"""Hidden states of teachers, compressed and stored once, so that no teacher runs in training."""

from seqdistill.targets.states.compression import Compression, StateMoments
from seqdistill.targets.states.layers import SIDES, matching_layer, parse_layer, read_layers
from seqdistill.targets.states.places import CHOICES, choose_places
from seqdistill.targets.states.reader import StateStore, StoredStates
from seqdistill.targets.states.settings import StatePlan
from seqdistill.targets.states.writer import StateShard, StateWriter, clear

__all__ = [
    "CHOICES",
    "SIDES",
    "Compression",
    "StateMoments",
    "StatePlan",
    "StateShard",
    "StateStore",
    "StateWriter",
    "StoredStates",
    "choose_places",
    "clear",
    "matching_layer",
    "parse_layer",
    "read_layers",
]
