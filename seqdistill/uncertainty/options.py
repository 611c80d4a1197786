"""What is computed and how members are combined: the choices of whoever decodes or scores."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.uncertainty.calibrator import Calibrator
from seqdistill.uncertainty.measures import MEASURES, UNNORMALISED_PREFIX
from seqdistill.uncertainty.sequence import mean_over_positions, sequence_lengths

#: How members make one model of sequences: product of expectations, expectation of products.
COMBINATIONS = ("pe", "ep")


@dataclass(frozen=True)
class UncertaintyOptions:
    """Choices that an estimator is made with.

    Attributes:
        measures: names (or ``all``, ``default``) from
            :func:`~seqdistill.uncertainty.measures.select_measures`; None: the default.
        combination: how an ensemble is decoded, ``pe`` or ``ep``.
        dirichlet_samples: members drawn from a Dirichlet student at every step, 0 for none; the
            joint EP measures are theirs.
        dirichlet_seed: of those draws.
        calibrator: of the one model that decodes; None: its predictions are reported as they are.

    Raises:
        InputError: another combination, one sample or fewer than none, or a negative seed.
    """

    measures: tuple[str, ...] | None = None
    combination: str = "pe"
    dirichlet_samples: int = 0
    dirichlet_seed: int = 0
    calibrator: Calibrator | None = None

    def __post_init__(self) -> None:
        if self.combination not in COMBINATIONS:
            raise InputError(
                f"expected an ensemble combination of {' or '.join(COMBINATIONS)}, got "
                f"{self.combination!r}"
            )
        if self.dirichlet_samples < 0 or self.dirichlet_samples == 1:
            raise InputError(
                "expected 0 Dirichlet samples (none) or at least 2, got "
                f"{self.dirichlet_samples}; one member has no disagreement to measure"
            )
        if self.dirichlet_seed < 0:
            raise InputError(f"expected a seed of 0 or above, got {self.dirichlet_seed}")


def needed_token_measures(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the token measures, in table order, that chosen measures are made of."""
    return tuple(
        name
        for name, measure in MEASURES.items()
        if measure.level == "token" and {name, UNNORMALISED_PREFIX + name} & set(names)
    )


def sequence_values(
    names: tuple[str, ...],
    of_tokens: Mapping[str, Tensor],
    of_sequences: Mapping[str, Tensor],
    like: Tensor,
    token_mask: Tensor | None,
) -> dict[str, Tensor]:
    """Return the chosen measures of sequences, each (...), float64.

    Args:
        names: of the measures.
        of_tokens: token measures, each (..., T).
        of_sequences: joint estimates, each (...).
        like: (..., T) any numbers of the same positions.
        token_mask: (..., T) bool, True where a position counts; None counts all.
    """
    found: dict[str, Tensor] = {}
    for name in names:
        base = name.removeprefix(UNNORMALISED_PREFIX)
        value = (
            mean_over_positions(of_tokens[base], token_mask)
            if MEASURES[base].level == "token"
            else of_sequences[base]
        )
        is_sum = base != name
        found[name] = value * sequence_lengths(like, token_mask) if is_sum else value
    return found
