"""Distilled expectations: outputs beside the logits that predict measures of the ensemble.

Vadera, Jalaian & Marlin (2020) let a student predict expectations over a posterior beside the
predictive distribution, the expected entropy E[H(p)] first of all. The total uncertainty is the
entropy of the student's own prediction, so one of DU and MI says the other by TU = DU + MI, and one
of EPKL and RMI the other by EPKL = MI + RMI: these hold for every reading, whatever was learnt.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqdistill.errors import InputError
from seqdistill.student.outputs import StudentOutputs

#: What can be learnt, in the order in which outputs stand; of each pair one at most.
EXPECTATIONS = (
    "data_uncertainty",
    "mutual_information",
    "epkl",
    "reverse_mutual_information",
)
_PAIRS = (("data_uncertainty", "mutual_information"), ("epkl", "reverse_mutual_information"))

#: Predicted without a difference of large numbers.
DEFAULT_EXPECTATIONS = ("mutual_information", "reverse_mutual_information")

DEFAULT_RANK = 64

#: softplus(−2) = 0.13 nats: the order of knowledge uncertainty where teachers mostly agree.
_FIRST_OUTPUT = -2.0


class ExpectationOutputs(StudentOutputs):
    """K outputs o of the features by a layer of r relus; softplus(o) is what is predicted, in nats.

    The logits are not touched: a student that begins with a teacher's weights predicts as it does.

    Args:
        D: width of the features.
        names: of :data:`EXPECTATIONS`, K.
        rank: r.

    Example:
        >>> outputs = ExpectationOutputs(D=4, names=("mutual_information",), rank=2)
        >>> expected_values(outputs(torch.ones(3, 4))).shape
        torch.Size([3, 1])
    """

    def __init__(self, D: int, names: Iterable[str], rank: int = DEFAULT_RANK) -> None:
        names = tuple(names)
        super().__init__(f"expectations of {', '.join(names)}, rank {rank}")
        self.inner = nn.Linear(D, rank)
        self.last = nn.Linear(rank, len(names))
        nn.init.normal_(self.inner.weight, std=1 / math.sqrt(D))
        nn.init.zeros_(self.inner.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, _FIRST_OUTPUT)

    def forward(self, features: Tensor) -> Tensor:
        """Return (..., K) outputs of (..., D)."""
        outputs: Tensor = self.last(torch.relu(self.inner(features)))
        return outputs


def expected_values(outputs: Tensor) -> Tensor:
    """Return softplus(o) of outputs (..., K): what they predict, nats, float32 at least.

    Example:
        >>> expected_values(torch.tensor([0.0, 20.0]))
        tensor([ 0.6931, 20.0000])
    """
    wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return nn.functional.softplus(wide)


def targets_of(names: tuple[str, ...], measures: Any) -> Tensor:
    """Return (..., K) what an ensemble says of each expectation, nats.

    Args:
        names: of the K expectations.
        measures: what has the ensemble's ``total_uncertainty``, ``mutual_information``, ``epkl``
            and ``reverse_mutual_information``, each (...): its statistics, a stored target, or the
            rows of a fused loss.

    Raises:
        InputError: a measure is not known.

    Example:
        >>> from seqdistill.teachers import ensemble_statistics
        >>> s = ensemble_statistics(torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log())
        >>> bool(torch.equal(targets_of(("data_uncertainty",), s)[..., 0], s.data_uncertainty))
        True
    """
    found = []
    for name in names:
        if name == "data_uncertainty":
            total, mutual = measures.total_uncertainty, measures.mutual_information
            value = None if total is None or mutual is None else total - mutual
        else:
            value = getattr(measures, name)
        if value is None:
            raise InputError(
                f"expected targets that say the ensemble's {name}; give members, their statistics "
                "or a target store"
            )
        found.append(value)
    return torch.stack(found, dim=-1).clamp_min(0.0)


def expectation_measures(
    names: tuple[str, ...], values: Tensor, total_uncertainty: Tensor
) -> dict[str, Tensor]:
    """Return the measures that predicted expectations mean.

    What is learnt is read as it is, but MI and DU not above TU, which is H(p); the other of a pair
    follows by TU = DU + MI and EPKL = MI + RMI. So both hold, and nothing is below 0.

    Args:
        names: of the K expectations.
        values: (..., K) of :func:`expected_values`.
        total_uncertainty: (...) H(p) of the student's prediction.

    Returns:
        By name, each (...), nats: those of the pairs that something is known of.

    Example:
        >>> found = expectation_measures(
        ...     ("mutual_information",), torch.tensor([0.25]), torch.tensor(1.0)
        ... )
        >>> {name: float(value) for name, value in found.items()}
        {'total_uncertainty': 1.0, 'data_uncertainty': 0.75, 'mutual_information': 0.25}
    """
    given = dict(zip(names, values.unbind(-1), strict=True))
    found = {"total_uncertainty": total_uncertainty}
    if "data_uncertainty" in given:
        data = torch.minimum(given["data_uncertainty"], total_uncertainty)
        found |= {"data_uncertainty": data, "mutual_information": total_uncertainty - data}
    elif "mutual_information" in given:
        mutual = torch.minimum(given["mutual_information"], total_uncertainty)
        found |= {"data_uncertainty": total_uncertainty - mutual, "mutual_information": mutual}
    if "epkl" in given:
        epkl = torch.maximum(given["epkl"], found["mutual_information"])
        rmi = epkl - found["mutual_information"]
        found |= {"epkl": epkl, "reverse_mutual_information": rmi}
    elif "reverse_mutual_information" in given:
        rmi = given["reverse_mutual_information"]
        found |= {"epkl": found["mutual_information"] + rmi, "reverse_mutual_information": rmi}
    return found


def check_expectations(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of expectations in the order of the outputs.

    Raises:
        InputError: one is unknown, both of a pair are there, or EPKL or RMI without DU or MI.

    Example:
        >>> check_expectations(["epkl", "mutual_information"])
        ('mutual_information', 'epkl')
    """
    names = tuple(names)
    unknown = [name for name in names if name not in EXPECTATIONS]
    if unknown or not names:
        raise InputError(
            f"expected expectations of {', '.join(EXPECTATIONS)}; got "
            f"{', '.join(unknown) if unknown else 'none'}"
        )
    for pair, identity in zip(_PAIRS, ("TU = DU + MI", "EPKL = MI + RMI"), strict=True):
        if set(pair) <= set(names):
            raise InputError(
                f"{pair[0]} and {pair[1]} follow from each other, {identity}; learn one of them"
            )
    if not set(_PAIRS[0]) & set(names):
        raise InputError(
            f"{' and '.join(names)}: expected {' or '.join(_PAIRS[0])} as well, which the other of "
            "EPKL and RMI follows from"
        )
    return tuple(name for name in EXPECTATIONS if name in names)


class ExpectationsKind:
    """The kind ``expectations``; its settings are ``names`` and ``rank``."""

    predictives: tuple[str, ...] = ("base",)

    def check(self, offset: float | None, settings: Mapping[str, Any]) -> None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        if offset is not None:
            raise InputError(f"a student of expectations has no offset, got {offset!r}")
        if settings.keys() != {"names", "rank"}:
            raise InputError(
                "a student of expectations says which, and of which rank; expected settings names, "
                f"rank, got {', '.join(sorted(settings)) or 'none'}"
            )
        ordered = check_expectations(settings["names"])
        if ordered != tuple(settings["names"]):
            raise InputError(f"expected the expectations in the order {', '.join(ordered)}")
        if not isinstance(settings["rank"], int) or settings["rank"] < 1:
            raise InputError(f"expected a rank of 1 or more, got {settings['rank']!r}")

    def outputs(self, settings: Mapping[str, Any], D: int, V: int) -> StudentOutputs | None:
        """See :class:`~seqdistill.student.kinds.HeadKind`."""
        return ExpectationOutputs(D, settings["names"], settings["rank"])
