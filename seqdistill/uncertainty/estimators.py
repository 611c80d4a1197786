"""From a model's outputs to its uncertainty: one estimator per kind of model, for every adapter.

A framework adapter knows how to run a decoder; an estimator knows what the outputs mean. It reads
the members' outputs at some rows, one member at a time, and answers with what is decoded and with
the token measures; later it looks up the tokens that were chosen there (a beam search knows them
one step afterwards); and when a hypothesis ends it makes the sequence measures of both.

    read(outputs)                      rows of positions → log-probabilities (R, V), measures (R,)
    token_terms(output, tokens, rows)  a member's output and tokens → what it says of them (k, N)
    sequence_measures(measures, terms) along T positions → one number a sequence and measure

The terms of the members are concatenated: (K, N) with K = M for an ensemble, 3 for a Dirichlet
student, 1 for an ordinary model.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.student import StudentHead, predictive_log_probs
from seqdistill.teachers import StatisticsAccumulator
from seqdistill.uncertainty.dirichlet import dirichlet_uncertainty
from seqdistill.uncertainty.sequence import (
    DirichletTokenTerms,
    LogMixture,
    dirichlet_token_terms,
    joint_dirichlet_measures,
    joint_ensemble_measures,
    mean_over_positions,
    mixture_log_probs,
)


@dataclass(frozen=True)
class TokenReading:
    """What a model says at R rows.

    Attributes:
        log_probs: (R, V) the distribution that is decoded; a new tensor, free to be changed.
        measures: token measures by name, each (R,), nats, higher = more uncertain, temperature 1.
    """

    log_probs: Tensor
    measures: dict[str, Tensor]


class Estimator(Protocol):
    """One kind of model.

    Attributes:
        info: what is recorded beside each hypothesis.
        wants_logits: members' outputs are raw logits (True) or normalised log-probabilities.
        token_measures: names of the token measures, in the order of ``TokenReading.measures``.
    """

    info: ModelInfo
    wants_logits: bool
    token_measures: tuple[str, ...]

    def read(self, outputs: Iterable[Tensor], temperature: float = 1.0) -> TokenReading:
        """Read the members' outputs, M tensors (R, V), held one at a time.

        Args:
            outputs: as ``wants_logits`` says.
            temperature: of the distribution that is decoded; the measures stay at 1.

        Raises:
            InputError: NaN in an output, or infinity in a logit; the member is named.
        """
        ...

    def token_terms(self, output: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        """Look up tokens (N,) at the rows (N,) of one member's output (R, V); returns (k, N)."""
        ...

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """Return (...) log-probabilities, under what is decoded at temperature 1, of (K, ...)."""
        ...

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return every sequence measure, each (...), float64.

        Args:
            measures: token measures, each (..., T).
            terms: (K, ..., T).
            token_mask: (..., T) bool, True where a position counts; None counts all.
        """
        ...


def estimator_for(heads: Sequence[StudentHead | None]) -> Estimator:
    """Choose the estimator of the models that decode together.

    Args:
        heads: one per model: how its logits are read, None for an ordinary model.

    Raises:
        InputError: no model, or a Dirichlet student beside other models (it is an ensemble already;
            averaging it with others would leave its uncertainty undefined).

    Example:
        >>> estimator_for([None, None]).info.kind
        'ensemble'
    """
    if not heads:
        raise InputError("expected at least one model, got none")
    dirichlet = [head for head in heads if head is not None and head.kind == "dirichlet"]
    if dirichlet and len(heads) > 1:
        raise InputError(
            f"{len(dirichlet)} of the {len(heads)} models are Dirichlet students; a Dirichlet "
            "student emulates a whole ensemble and must be decoded alone (give one --path)"
        )
    if dirichlet:
        (head,) = dirichlet
        assert head.offset is not None  # StudentHead checked it
        return DirichletEstimator(head.offset, head.predictive)
    return SoftmaxEstimator() if len(heads) == 1 else EnsembleEstimator(len(heads))


class EnsembleEstimator:
    """Several ordinary models, combined as a product of expectations (PE)."""

    wants_logits = False
    token_measures: tuple[str, ...] = (
        "total_uncertainty",
        "data_uncertainty",
        "mutual_information",
        "epkl",
        "reverse_mutual_information",
    )

    def __init__(self, members: int) -> None:
        self.info = ModelInfo(kind="ensemble", members=members, predictive="pe")

    def read(self, outputs: Iterable[Tensor], temperature: float = 1.0) -> TokenReading:
        """See :meth:`Estimator.read`."""
        accumulator = StatisticsAccumulator()
        mixture = LogMixture()
        for log_probs in outputs:
            accumulator.add(log_probs)
            mixture.add(_tempered(log_probs, temperature))
        statistics = accumulator.statistics()
        return TokenReading(
            mixture.log_probs(), {name: getattr(statistics, name) for name in self.token_measures}
        )

    def token_terms(self, output: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        """See :meth:`Estimator.token_terms`; ln p_m of each token, (1, N)."""
        return output[rows, tokens].unsqueeze(0)

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """See :meth:`Estimator.token_log_probs`."""
        return mixture_log_probs(terms)

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        return _means(measures, token_mask) | joint_ensemble_measures(terms, token_mask)


class DirichletEstimator:
    """One Dirichlet student, α = e^z + offset; its outputs are the raw logits z.

    Args:
        offset: 1 or 0.
        predictive: what is decoded: ``base`` (softmax(z)) or ``mean`` (α/α₀).
    """

    wants_logits = True
    token_measures: tuple[str, ...] = (
        *EnsembleEstimator.token_measures,
        "total_uncertainty_base",
        "inverse_precision",
    )

    def __init__(self, offset: float, predictive: str) -> None:
        self.offset = offset
        self.predictive = predictive
        self.info = ModelInfo(kind="dirichlet", members=1, predictive=predictive, offset=offset)

    def read(self, outputs: Iterable[Tensor], temperature: float = 1.0) -> TokenReading:
        """See :meth:`Estimator.read`."""
        logits = _only(outputs)
        # A sum over the vocabulary is finite where its terms are, and costs a tenth of the look.
        _require(torch.isfinite(logits.sum(dim=-1)), "logits")
        parts = [dirichlet_uncertainty(rows, self.offset) for rows in _chunks(logits)]
        measures = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in self.token_measures
        }
        log_probs = predictive_log_probs(logits, self.offset, self.predictive)
        return TokenReading(_tempered(log_probs, temperature), measures)

    def token_terms(self, output: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        """See :meth:`Estimator.token_terms`; :class:`DirichletTokenTerms` stacked, (3, N)."""
        return dirichlet_token_terms(output, tokens, self.offset, rows).stack()

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """See :meth:`Estimator.token_log_probs`."""
        terms_of_tokens = DirichletTokenTerms(*terms)
        if self.predictive == "mean":
            return terms_of_tokens.log_probs_mean
        return terms_of_tokens.log_probs_base

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        return _means(measures, token_mask) | joint_dirichlet_measures(
            DirichletTokenTerms(*terms), token_mask
        )


class SoftmaxEstimator:
    """One ordinary model: no disagreement to measure, only the entropy of what it predicts."""

    wants_logits = False
    token_measures: tuple[str, ...] = ("total_uncertainty",)

    def __init__(self) -> None:
        self.info = ModelInfo(kind="softmax", members=1, predictive="softmax")

    def read(self, outputs: Iterable[Tensor], temperature: float = 1.0) -> TokenReading:
        """See :meth:`Estimator.read`."""
        log_probs = _only(outputs)
        _require(log_probs.sum(dim=-1) < math.inf, "log-probabilities")  # −∞: probability 0
        # The caller may keep the output, and what is decoded may be changed: never the same memory.
        decoded = log_probs.clone() if temperature == 1.0 else _tempered(log_probs, temperature)
        return TokenReading(decoded, {"total_uncertainty": _entropy(log_probs)})

    def token_terms(self, output: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        """See :meth:`Estimator.token_terms`; ln p of each token, (1, N)."""
        return output[rows, tokens].unsqueeze(0)

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """See :meth:`Estimator.token_log_probs`."""
        return terms[0]

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        joint = -mean_over_positions(terms[0], token_mask)
        return _means(measures, token_mask) | {"joint_total_uncertainty_pe": joint}


def _means(measures: Mapping[str, Tensor], token_mask: Tensor | None) -> dict[str, Tensor]:
    return {name: mean_over_positions(values, token_mask) for name, values in measures.items()}


def _tempered(log_probs: Tensor, temperature: float) -> Tensor:
    """Return ln softmax(ln p / T)."""
    if temperature == 1.0:
        return log_probs
    return torch.log_softmax(log_probs / temperature, dim=-1)


def _entropy(log_probs: Tensor) -> Tensor:
    """Return (...) −Σ p ln p of (..., V); impossible tokens (−∞) count 0."""
    return -(log_probs.exp() * log_probs.clamp_min(torch.finfo(log_probs.dtype).min)).sum(dim=-1)


def _chunks(rows: Tensor) -> tuple[Tensor, ...]:
    """Split (R, V) by rows: a formula's temporaries fit a core's cache, or a GPU's memory."""
    elements = 1 << 17 if rows.device.type == "cpu" else 1 << 26
    return torch.split(rows, max(1, elements // rows.shape[-1]))


def _only(outputs: Iterable[Tensor]) -> Tensor:
    tensors = list(outputs)
    if len(tensors) != 1:
        raise InputError(f"expected the output of one model, got {len(tensors)}")
    return tensors[0]


def _require(valid: Tensor, what: str) -> None:
    """Raise an :class:`InputError` unless all are valid."""
    if not bool(valid.all()):
        raise InputError(
            f"NaN or infinite {what} from member 1; check that checkpoint, and its dtype "
            "(float16 overflows where bfloat16 and float32 do not)"
        )
