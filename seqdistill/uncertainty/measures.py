"""Which measures a kind of model has, and what a choice of measures means for it."""

from collections.abc import Iterable, Sequence

from seqdistill.errors import InputError
from seqdistill.uncertainty.measure import MODEL_KINDS, Measure
from seqdistill.uncertainty.table import MEASURES, UNNORMALISED_PREFIX

__all__ = [
    "ALL",
    "DEFAULT",
    "MEASURES",
    "MODEL_KINDS",
    "UNNORMALISED_PREFIX",
    "Measure",
    "available_measures",
    "measures_of",
    "resolve_measures",
    "select_measures",
]

#: Words that stand for several measures in a choice of them.
ALL, DEFAULT = "all", "default"


def measures_of(model_kind: str) -> tuple[str, ...]:
    """Return the names of the measures that a kind of model computes by default, in table order.

    Raises:
        InputError: no such kind.

    Example:
        >>> measures_of("softmax")
        ('total_uncertainty', 'joint_total_uncertainty_pe')
    """
    _check_kind(model_kind)
    return tuple(name for name, measure in MEASURES.items() if model_kind in measure.default_for)


def available_measures(model_kind: str, *, samples: bool = True) -> tuple[str, ...]:
    """Return the names of all measures that a kind of model computes if asked, in table order.

    Args:
        model_kind: of :data:`MODEL_KINDS`.
        samples: with ``--dirichlet-samples``; False leaves out what needs them.

    Raises:
        InputError: no such kind.

    Example:
        >>> available_measures("softmax")[:3]
        ('total_uncertainty', 'joint_total_uncertainty_pe', 'entropy')
    """
    _check_kind(model_kind)
    return tuple(
        name
        for name, measure in MEASURES.items()
        if model_kind in measure.needs
        and not measure.added_by
        and (samples or model_kind not in measure.needs_samples)
    )


def _check_kind(model_kind: str) -> None:
    if model_kind not in MODEL_KINDS:
        raise InputError(f"expected a model kind of {', '.join(MODEL_KINDS)}, got {model_kind!r}")


def select_measures(wanted: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Read a choice of measures, as a command line or a configuration gives it.

    Args:
        wanted: names, or one string of names separated by commas; ``all`` stands for every
            measure that the model has, ``default`` for those it computes by itself. None: default.

    Returns:
        The names in the order given, without repetition, or None for the default.

    Raises:
        InputError: a name is unknown (the known ones are listed), or no name was given.

    Example:
        >>> select_measures("epkl, total_uncertainty")
        ('epkl', 'total_uncertainty')
    """
    if wanted is None:
        return None
    names: Sequence[str] = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise InputError(f"expected measures of {', '.join(MEASURES)}; got none")
    unknown = [name for name in names if name not in MEASURES and name not in (ALL, DEFAULT)]
    if unknown:
        raise InputError(
            f"unknown measure {', '.join(map(repr, unknown))}; known are {', '.join(MEASURES)}"
        )
    return tuple(names)


def resolve_measures(
    wanted: Sequence[str] | None, model_kind: str, *, samples: bool = False
) -> tuple[str, ...]:
    """Return which measures a choice means for a kind of model.

    Args:
        wanted: what :func:`select_measures` gave.
        model_kind: of :data:`MODEL_KINDS`.
        samples: members are drawn from the Dirichlet, and what needs them is then default.

    Returns:
        Names without repetition, in the order given (in table order where a word stands for them).

    Raises:
        InputError: the kind has no such measure, or only with samples.

    Example:
        >>> resolve_measures(("entropy", "default"), "softmax")
        ('entropy', 'total_uncertainty', 'joint_total_uncertainty_pe')
    """
    every = available_measures(model_kind, samples=samples)
    defaults = tuple(
        name
        for name in every
        if model_kind in MEASURES[name].default_for
        or (model_kind in MEASURES[name].needs_samples and not name.startswith(UNNORMALISED_PREFIX))
    )
    names: dict[str, None] = {}
    for name in (DEFAULT,) if wanted is None else wanted:
        names |= dict.fromkeys({ALL: every, DEFAULT: defaults}.get(name, (name,)))
    missing = [name for name in names if name not in every]
    unsampled = [name for name in missing if name in available_measures(model_kind)]
    if unsampled:
        raise InputError(
            f"a model of kind {model_kind} has {', '.join(unsampled)} of members drawn from it "
            "only; say how many with --dirichlet-samples"
        )
    added = [f"{name} ({MEASURES[name].added_by})" for name in missing if MEASURES[name].added_by]
    if added:
        raise InputError(
            f"{', '.join(added)}: added to hypotheses by what stands in brackets, not by a choice "
            "of measures"
        )
    if missing:
        raise InputError(
            f"a model of kind {model_kind} has no {', '.join(missing)}; it has {', '.join(every)}"
        )
    return tuple(names)
