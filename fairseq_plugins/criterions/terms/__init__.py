"""Terms beside a distillation loss, each of one idea; any criterion can have any of them."""

from dataclasses import dataclass

from fairseq_plugins.criterions.terms.boundary import BoundaryOptions, BoundarySamples
from fairseq_plugins.criterions.terms.ctc import Ctc, CtcOptions
from fairseq_plugins.criterions.terms.hidden_states import HiddenStates, StateOptions
from fairseq_plugins.criterions.terms.relational import RelationalOptions, Relations
from fairseq_plugins.criterions.terms.term import LossTerm

TERMS: tuple[type[LossTerm], ...] = (Relations, HiddenStates, BoundarySamples, Ctc)
"""All of them, in the order in which they are added."""


@dataclass
class TermOptions(StateOptions, BoundaryOptions, RelationalOptions, CtcOptions):
    """Options of all terms. (``--help`` lists them from the last to the first.)"""


__all__ = ["TERMS", "LossTerm", "TermOptions"]
