"""The table of measures: one entry a name, read by decoding, assessment, reports and docs.

A *token* measure is a number at every position; its value for a sequence is the mean over the
positions, end-of-sentence included (the chain-rule estimate). A *sequence* measure exists for whole
hypotheses only. All are in nats and all point the same way: higher = more uncertain.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from seqdistill.errors import InputError

#: What produces hypotheses: several ordinary models, one Dirichlet student, one ordinary model.
MODEL_KINDS = ("ensemble", "dirichlet", "softmax")

Level = Literal["token", "sequence"]
Estimate = Literal["chain-rule", "joint"]
Combination = Literal["pe", "ep"]
Kind = Literal["total", "data", "knowledge"]


@dataclass(frozen=True)
class Measure:
    """What a measure is, where it comes from and who has it.

    Attributes:
        name: the key in ``Hypothesis.uncertainty``.
        symbol: how tables and plots call it.
        level: ``token`` (a number a position, averaged for the sequence) or ``sequence``.
        estimate: of the sequence's value: ``chain-rule`` (mean over positions) or ``joint`` (from
            the log-probability of the hypothesis).
        combination: how members make one sequence model: ``pe``, product of expectations, or
            ``ep``, expectation of products. A Dirichlet student emulates ``pe``.
        kind: the uncertainty measured: ``total``, ``data`` or ``knowledge``.
        needs: the model kinds that have it, of :data:`MODEL_KINDS`.
        formula: at one position for token measures, for y of length L for sequence measures.
        source: where it was published.
    """

    name: str
    symbol: str
    level: Level
    estimate: Estimate
    combination: Combination
    kind: Kind
    needs: tuple[str, ...]
    formula: str
    source: str


_SEQUENCES = (
    "Malinin & Gales 2021, Uncertainty Estimation in Autoregressive Structured Prediction (ICLR)"
)
_DECOMPOSITION = "Depeweg et al. 2018 (ICML); for sequences " + _SEQUENCES
_DIRICHLET = "Malinin & Gales 2018, Predictive Uncertainty Estimation via Prior Networks (NeurIPS)"
_PROXY = "Ryabinin, Malinin & Gales 2021, Scaling Ensemble Distribution Distillation (NeurIPS)"

_ENSEMBLE_LIKE = ("ensemble", "dirichlet")


def _token(
    name: str, symbol: str, kind: Kind, needs: tuple[str, ...], formula: str, source: str
) -> Measure:
    return Measure(name, symbol, "token", "chain-rule", "pe", kind, needs, formula, source)


def _joint(
    name: str,
    symbol: str,
    combination: Combination,
    kind: Kind,
    needs: tuple[str, ...],
    formula: str,
) -> Measure:
    return Measure(name, symbol, "sequence", "joint", combination, kind, needs, formula, _SEQUENCES)


_ALL = (
    _token(
        "total_uncertainty", "TU", "total", MODEL_KINDS,
        "H(p̄), p̄ = mean_m p_m; Dirichlet: H(α/α₀); one model: H(p)", _DECOMPOSITION,
    ),
    _token(
        "data_uncertainty", "DU", "data", _ENSEMBLE_LIKE,
        "mean_m H(p_m); Dirichlet: −Σ (α/α₀)(ψ(α+1) − ψ(α₀+1))", _DECOMPOSITION,
    ),
    _token(
        "mutual_information", "MI", "knowledge", _ENSEMBLE_LIKE,
        "TU − DU", _DECOMPOSITION,
    ),
    _token(
        "epkl", "EPKL", "knowledge", _ENSEMBLE_LIKE,
        "−Σ p̄ mean_m ln p_m − DU; Dirichlet: (V−1)/α₀", _SEQUENCES,
    ),
    _token(
        "reverse_mutual_information", "RMI", "knowledge", _ENSEMBLE_LIKE,
        "mean_m KL(p̄‖p_m); Dirichlet: Σ (α/α₀)(ln(α/α₀) − ψ(α) + ψ(α₀))", _SEQUENCES,
    ),
    _token(
        "total_uncertainty_base", "TU (base)", "total", ("dirichlet",),
        "H(softmax(z)), the base of the Dirichlet α = e^z + offset", _PROXY,
    ),
    _token(
        "inverse_precision", "1/α₀", "knowledge", ("dirichlet",),
        "1/α₀ = EPKL/(V−1)", _DIRICHLET,
    ),
    _joint(
        "joint_total_uncertainty_pe", "joint TU (PE)", "pe", "total", MODEL_KINDS,
        "−(1/L) Σ_l ln p̄(y_l); Dirichlet: p̄ = α/α₀; one model: p",
    ),
    _joint(
        "joint_total_uncertainty_ep", "joint TU (EP)", "ep", "total", ("ensemble",),
        "−(1/L) ln mean_m Π_l p_m(y_l)",
    ),
    _joint(
        "joint_reverse_mutual_information_pe", "joint RMI (PE)", "pe", "knowledge", _ENSEMBLE_LIKE,
        "(1/L) Σ_l [ln p̄(y_l) − mean_m ln p_m(y_l)]; "
        "Dirichlet: (1/L) Σ_l [ψ(α₀) − ψ(α_{y_l}) + ln(α_{y_l}/α₀)]",
    ),
    _joint(
        "joint_reverse_mutual_information_ep", "joint RMI (EP)", "ep", "knowledge", ("ensemble",),
        "−(1/L) mean_m ln P_m(y) − joint TU (EP)",
    ),
    _joint(
        "joint_total_uncertainty_base", "joint TU (base)", "pe", "total", ("dirichlet",),
        "−(1/L) Σ_l ln softmax(z_l)(y_l)",
    ),
)  # fmt: skip

#: Every measure by name, in the order in which reports show them.
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}


def measures_of(model_kind: str) -> tuple[str, ...]:
    """Return the names of the measures that a kind of model has, in table order.

    Raises:
        InputError: no such kind.

    Example:
        >>> measures_of("softmax")
        ('total_uncertainty', 'joint_total_uncertainty_pe')
    """
    if model_kind not in MODEL_KINDS:
        raise InputError(f"expected a model kind of {', '.join(MODEL_KINDS)}, got {model_kind!r}")
    return tuple(name for name, measure in MEASURES.items() if model_kind in measure.needs)


def select_measures(wanted: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Read a choice of measures, as a command line or a configuration gives it.

    Args:
        wanted: names, or one string of names separated by commas; None means all.

    Returns:
        The names in the order given, without repetition, or None for all.

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
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise InputError(
            f"unknown measure {', '.join(map(repr, unknown))}; known are {', '.join(MEASURES)}"
        )
    return tuple(names)
