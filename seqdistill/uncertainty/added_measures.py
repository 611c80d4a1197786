"""Measures that take more than a decoding: outputs of single members, densities of features."""

from seqdistill.uncertainty.measure import MODEL_KINDS, Measure

QUALITY_ESTIMATION = (
    "Fomicheva et al. 2020, Unsupervised Quality Estimation for Neural Machine Translation (TACL)"
)
_OUTPUTS = (
    "Xiao, Gomez & Gal 2020, Wat zei je? Detecting Out-of-Distribution Translations with "
    "Variational Transformers (there squared); lexical similarity of " + QUALITY_ESTIMATION
)
_MAHALANOBIS = (
    "Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples and "
    "Adversarial Attacks (NeurIPS); of pooled features: Ren et al. 2023, Out-of-Distribution "
    "Detection and Selective Generation for Conditional Language Models (ICLR)"
)
_RELATIVE = (
    "Ren et al. 2021, A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection; of "
    "pooled features: Ren et al. 2023, Out-of-Distribution Detection and Selective Generation for "
    "Conditional Language Models (ICLR)"
)

#: Metric between the outputs of two members → how the disagreement is written and computed.
DISAGREEMENT_METRICS = {
    "bleu": ("disagreement (BLEU)", "1 − BLEU(y_i, y_j)/100"),
    "chrf": ("disagreement (chrF)", "1 − chrF(y_i, y_j)/100"),
    "ter": ("disagreement (TER)", "TER(y_i, y_j)/100"),
    "wer": ("disagreement (WER)", "WER(y_i, y_j)"),
}

#: How names of measures of disagreement begin; the metric follows.
DISAGREEMENT_PREFIX = "output_disagreement_"


def _disagreement(metric: str) -> Measure:
    symbol, formula = DISAGREEMENT_METRICS[metric]
    return Measure(
        DISAGREEMENT_PREFIX + metric, symbol, "sequence", "outputs", None, "knowledge",
        ("ensemble",), f"mean over i ≠ j of {formula}, y_i what member i alone translates",
        _OUTPUTS, unit="none", added_by="seqdistill disagreement",
    )  # fmt: skip


def _distance(name: str, symbol: str, formula: str, source: str) -> Measure:
    return Measure(
        name, symbol, "sequence", "features", None, "knowledge", MODEL_KINDS, formula, source,
        unit="none", added_by="--feature-density",
    )  # fmt: skip


#: In the order in which reports show them.
ADDED = (
    *(_disagreement(metric) for metric in DISAGREEMENT_METRICS),
    _distance(
        "mahalanobis_encoder", "MD (encoder)",
        "(h − μ)ᵀ Σ⁻¹ (h − μ), h the encoder's mean output; mean over members", _MAHALANOBIS,
    ),
    _distance(
        "mahalanobis_decoder", "MD (decoder)",
        "(h − μ)ᵀ Σ⁻¹ (h − μ), h the mean of the decoder's features along y; mean over members",
        _MAHALANOBIS,
    ),
    _distance(
        "relative_mahalanobis_encoder", "RMD (encoder)",
        "MD (encoder) − that to the background; it can fall below 0", _RELATIVE,
    ),
    _distance(
        "relative_mahalanobis_decoder", "RMD (decoder)",
        "MD (decoder) − that to the background; it can fall below 0", _RELATIVE,
    ),
)  # fmt: skip
