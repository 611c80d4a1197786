"""The two predictive distributions of a Dirichlet student, by plain loops."""

from typing import Any

from tests.reference import dirichlets
from tests.reference.arithmetic import Number, concentrations, exp, numbers, total


def base(logits: Any) -> list[Number]:
    """softmax(z)."""
    weights = [exp(z) for z in numbers(logits)]
    weight = total(weights)
    return [w / weight for w in weights]


def mean(logits: Any, offset: float) -> list[Number]:
    """(e^z + o)/Σ(e^z + o)."""
    return dirichlets.mean(concentrations(logits, offset))
