"""The table of measures: one entry a name, read by decoding, assessment, reports and docs.

A *token* measure is a number at every position; its value for a sequence is the mean over the
positions, end-of-sentence included (the chain-rule estimate). A *sequence* measure exists for whole
hypotheses only. All but those that say so are in nats and point the same way: higher = more
uncertain. What a model computes unless it is asked for more is ``default_for`` its kind.
"""

from dataclasses import replace

from seqdistill.uncertainty.added_measures import ADDED, QUALITY_ESTIMATION
from seqdistill.uncertainty.measure import MODEL_KINDS, Combination, Kind, Level, Measure

_SEQUENCES = (
    "Malinin & Gales 2021, Uncertainty Estimation in Autoregressive Structured Prediction (ICLR)"
)
_DECOMPOSITION = "Depeweg et al. 2018 (ICML); for sequences " + _SEQUENCES
_DIRICHLET = "Malinin & Gales 2018, Predictive Uncertainty Estimation via Prior Networks (NeurIPS)"
_PROXY = "Ryabinin, Malinin & Gales 2021, Scaling Ensemble Distribution Distillation (NeurIPS)"
_LOGITS = (
    "Fathullah, Xia & Gales 2023, Logit-Based Ensemble Distribution Distillation for Robust "
    "Autoregressive Sequence Uncertainties (UAI)"
)
_BASELINE = (
    "Hendrycks & Gimpel 2017, A Baseline for Detecting Misclassified and Out-of-Distribution "
    "Examples (ICLR)"
)
_RELEASED = "the research code released with " + _PROXY + "; for comparison only"

#: Several predictions at every position: models, or heads of one.
_MEMBERS = ("ensemble", "hydra")
#: Students with a distribution over logits, whose members are drawn.
_LOGIT_SPACE = ("laplace", "gaussian", "concrete")
_ENSEMBLE_LIKE = ("ensemble", "dirichlet", "hydra", *_LOGIT_SPACE)

#: What says something at every position of what members would disagree about.
_DECOMPOSED = (*_ENSEMBLE_LIKE, "expectations", "calibrated")

#: What stands beside softmax of its own logits.
_BASED = ("dirichlet", *_LOGIT_SPACE, "calibrated")


def _token(
    name: str, symbol: str, kind: Kind, needs: tuple[str, ...], formula: str, source: str
) -> Measure:
    return Measure(
        name, symbol, "token", "chain-rule", "pe", kind, needs, formula, source, default_for=needs
    )


def _token_ep(name: str, symbol: str, kind: Kind, formula: str) -> Measure:
    return Measure(name, symbol, "token", "chain-rule", "ep", kind, _MEMBERS, formula, _SEQUENCES)


def _decoded(name: str, symbol: str, formula: str, source: str) -> Measure:
    return Measure(name, symbol, "token", "chain-rule", None, "total", MODEL_KINDS, formula, source)


def _joint(
    name: str,
    symbol: str,
    combination: Combination,
    kind: Kind,
    needs: tuple[str, ...],
    formula: str,
    *,
    needs_samples: tuple[str, ...] = (),
) -> Measure:
    default_for = tuple(model for model in needs if model not in needs_samples)
    return Measure(
        name, symbol, "sequence", "joint", combination, kind, needs, formula, _SEQUENCES,
        default_for=default_for, needs_samples=needs_samples,
    )  # fmt: skip


def _official(
    name: str, symbol: str, level: Level, kind: Kind, formula: str, *, is_upright: bool = True
) -> Measure:
    return Measure(
        "official_" + name, f"official {symbol}", level,
        "chain-rule" if level == "token" else "joint", "pe", kind, ("dirichlet",), formula,
        _RELEASED, higher_is_more_uncertain=is_upright,
    )  # fmt: skip


_DEFAULTS = (
    _token(
        "total_uncertainty", "TU", "total", MODEL_KINDS,
        "H(p̄), p̄ = mean_m p_m; Dirichlet: H(α/α₀); one model: H(p)", _DECOMPOSITION,
    ),
    _token(
        "data_uncertainty", "DU", "data", _DECOMPOSED,
        "mean_m H(p_m); Dirichlet: −Σ (α/α₀)(ψ(α+1) − ψ(α₀+1))", _DECOMPOSITION,
    ),
    _token(
        "mutual_information", "MI", "knowledge", _DECOMPOSED,
        "TU − DU", _DECOMPOSITION,
    ),
    _token(
        "epkl", "EPKL", "knowledge", _DECOMPOSED,
        "−Σ p̄ mean_m ln p_m − DU; Dirichlet: (V−1)/α₀", _SEQUENCES,
    ),
    _token(
        "reverse_mutual_information", "RMI", "knowledge", _DECOMPOSED,
        "mean_m KL(p̄‖p_m); Dirichlet: Σ (α/α₀)(ln(α/α₀) − ψ(α) + ψ(α₀))", _SEQUENCES,
    ),
    _token(
        "total_uncertainty_base", "TU (base)", "total", _BASED,
        "H(softmax(z)), the base of the Dirichlet α = e^z + offset; logit-space: of the location; "
        "calibrated: of what is decoded",
        _PROXY,
    ),
    replace(
        _token(
            "inverse_precision", "1/α₀", "knowledge", ("dirichlet",),
            "1/α₀ = EPKL/(V−1)", _DIRICHLET,
        ),
        unit="none",
    ),
    _token(
        "logit_entropy", "H(logits)", "knowledge", _LOGIT_SPACE,
        "differential entropy of the logits, an entry: mean_v ln(2eb); gaussian: mean_v "
        "½ ln(2πeb²); concrete: [V(ψ(V) + γ) − lnΓ(V) − (V−1) ln λ]/V; may be below 0", _LOGITS,
    ),
    _joint(
        "joint_total_uncertainty_pe", "joint TU (PE)", "pe", "total", MODEL_KINDS,
        "−(1/L) Σ_l ln p̄(y_l); Dirichlet: p̄ = α/α₀; one model: p",
    ),
    _joint(
        "joint_total_uncertainty_ep", "joint TU (EP)", "ep", "total", _ENSEMBLE_LIKE,
        "−(1/L) ln mean_m Π_l p_m(y_l); Dirichlet: over members drawn from Dir(α) at every step",
        needs_samples=("dirichlet",),
    ),
    _joint(
        "joint_reverse_mutual_information_pe", "joint RMI (PE)", "pe", "knowledge",
        (*_ENSEMBLE_LIKE, "calibrated"),
        "(1/L) Σ_l [ln p̄(y_l) − mean_m ln p_m(y_l)]; "
        "Dirichlet: (1/L) Σ_l [ψ(α₀) − ψ(α_{y_l}) + ln(α_{y_l}/α₀)]",
    ),
    _joint(
        "joint_reverse_mutual_information_ep", "joint RMI (EP)", "ep", "knowledge", _ENSEMBLE_LIKE,
        "−(1/L) mean_m ln P_m(y) − joint TU (EP); "
        "Dirichlet: over members drawn from Dir(α) at every step",
        needs_samples=("dirichlet",),
    ),
    _joint(
        "joint_total_uncertainty_base", "joint TU (base)", "pe", "total", _BASED,
        "−(1/L) Σ_l ln softmax(z_l)(y_l)",
    ),
)  # fmt: skip

_ON_REQUEST = (
    _token_ep(
        "total_uncertainty_ep", "TU (EP)", "total",
        "H(p_EP), p_EP = Σ_m P_m(y_<l) p_m / Σ_m P_m(y_<l)",
    ),
    _token_ep(
        "mutual_information_ep", "MI (EP)", "knowledge",
        "TU (EP) − DU; DU weighs the members equally, so it can fall below 0",
    ),
    _token_ep(
        "epkl_ep", "EPKL (EP)", "knowledge",
        "−Σ p_EP mean_m ln p_m − DU = MI (EP) + RMI (EP); it can fall below 0",
    ),
    _token_ep(
        "reverse_mutual_information_ep", "RMI (EP)", "knowledge", "mean_m KL(p_EP‖p_m)",
    ),
    _decoded(
        "entropy", "H", "H(p) of what is decoded; over a sequence: mean token entropy",
        QUALITY_ESTIMATION,
    ),
    _decoded(
        "negative_log_max_probability", "−ln max p", "−ln max_v p(v) of what is decoded", _BASELINE,
    ),
    _decoded(
        "negative_log_probability", "−ln p(y)", "−ln p(y_l) under what is decoded",
        QUALITY_ESTIMATION,
    ),
    Measure(
        "member_score_variance", "Var ln P_m", "sequence", "joint", None, "knowledge",
        _MEMBERS, "variance over members (divisor M) of (1/L) ln P_m(y)", QUALITY_ESTIMATION,
        unit="nats²",
    ),
    _official(
        "total_uncertainty", "TU", "token", "total",
        "H(b), b = softmax(z), with 1e-10 inside the logarithm",
    ),
    _official(
        "data_uncertainty", "DU", "token", "data", "max(0, −Σ b (ψ(α+1) − ψ(α₀+1)))",
    ),
    _official(
        "mutual_information", "MI", "token", "knowledge",
        "max(0, Σ b (ln b − ψ(α+1) + ψ(α₀+1))): the negated difference, clamped", is_upright=False,
    ),
    _official("epkl", "EPKL", "token", "knowledge", "(V−1)/α₀"),
    _official(
        "reverse_mutual_information", "MKL", "token", "knowledge",
        "max(0, Σ b (ln b − ψ(α) + ψ(α₀)))",
    ),
    _official(
        "joint_total_uncertainty", "sTU", "sequence", "total", "−(1/L) Σ_l ln b(y_l)",
    ),
    _official(
        "joint_reverse_mutual_information", "sMKL", "sequence", "knowledge",
        "(1/L) Σ_l [ψ(α₀) − ψ(α_{y_l}) + ln b(y_l)]",
    ),
)  # fmt: skip

#: What has a form that is not divided by the length: measure → its symbol there.
_UNNORMALISED = {
    "total_uncertainty": "ΣTU",
    "data_uncertainty": "ΣDU",
    "mutual_information": "ΣMI",
    "epkl": "ΣEPKL",
    "reverse_mutual_information": "ΣRMI",
    "total_uncertainty_base": "ΣTU (base)",
    "total_uncertainty_ep": "ΣTU (EP)",
    "mutual_information_ep": "ΣMI (EP)",
    "epkl_ep": "ΣEPKL (EP)",
    "reverse_mutual_information_ep": "ΣRMI (EP)",
    "joint_total_uncertainty_pe": "−ln P(y) (PE)",
    "joint_total_uncertainty_ep": "−ln P(y) (EP)",
    "joint_total_uncertainty_base": "−ln P(y) (base)",
    "joint_reverse_mutual_information_pe": "L · joint RMI (PE)",
    "joint_reverse_mutual_information_ep": "L · joint RMI (EP)",
}

#: Prefix of the measures that are not divided by the length.
UNNORMALISED_PREFIX = "unnormalised_"


def _unnormalised(measure: Measure) -> Measure:
    return replace(
        measure,
        name=UNNORMALISED_PREFIX + measure.name,
        symbol=_UNNORMALISED[measure.name],
        level="sequence",
        formula=f"L · {measure.symbol} of the sequence",
        default_for=(),
    )


#: Every measure by name, in the order in which reports show them.
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _DEFAULTS + _ON_REQUEST}
MEASURES |= {UNNORMALISED_PREFIX + name: _unnormalised(MEASURES[name]) for name in _UNNORMALISED}
MEASURES |= {measure.name: measure for measure in ADDED}
