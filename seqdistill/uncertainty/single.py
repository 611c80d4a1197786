"""The estimators of one model: a Dirichlet student, or an ordinary model."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.kernels.mixture import MemberMixture
from seqdistill.student import predictive_log_probs
from seqdistill.uncertainty.dirichlet import dirichlet_reading
from seqdistill.uncertainty.measures import resolve_measures
from seqdistill.uncertainty.official import official_joint_measures, official_token_measures
from seqdistill.uncertainty.one_distribution import OneDistribution
from seqdistill.uncertainty.options import (
    UncertaintyOptions,
    needed_token_measures,
    sequence_values,
)
from seqdistill.uncertainty.outputs import MemberRows, rows_of
from seqdistill.uncertainty.reading import (
    TokenReading,
    entropy,
    only_output,
    require_valid,
    row_chunks,
    tempered,
)
from seqdistill.uncertainty.sampling import sampled_log_probs
from seqdistill.uncertainty.sequence import (
    DirichletTokenTerms,
    dirichlet_terms_at,
    joint_dirichlet_measures,
    joint_ensemble_measures,
)

_OF_DIRICHLET = (
    "total_uncertainty",
    "data_uncertainty",
    "mutual_information",
    "epkl",
    "reverse_mutual_information",
    "total_uncertainty_base",
    "inverse_precision",
)
_OF_CHOSEN = ("negative_log_probability",)


class DirichletEstimator:
    """One Dirichlet student, α = e^z + offset; its outputs are the raw logits z.

    Args:
        offset: 1 or 0.
        predictive: what is decoded: ``base`` (softmax(z)) or ``mean`` (α/α₀).
        options: measures, and how many members are drawn from the student.

    Raises:
        InputError: it shall be combined as an expectation of products.
    """

    wants_logits = True
    needs_prefix = False

    def __init__(
        self, offset: float, predictive: str, options: UncertaintyOptions | None = None
    ) -> None:
        options = options or UncertaintyOptions()
        if options.combination != "pe":
            raise InputError(
                "a Dirichlet student has no members to combine: it is decoded with its base or its "
                "mean (--predictive). For EP measures of members drawn from it give "
                "--dirichlet-samples instead of --ensemble-combination ep"
            )
        self.offset = offset
        self.predictive = predictive
        self.info = ModelInfo(kind="dirichlet", members=1, predictive=predictive, offset=offset)
        self._samples, self._seed = options.dirichlet_samples, options.dirichlet_seed
        self.measures = resolve_measures(
            options.measures, "dirichlet", samples=options.dirichlet_samples > 0
        )
        needed = needed_token_measures(self.measures)
        self.token_measures = tuple(name for name in needed if name not in _OF_CHOSEN)
        self._is_ep_wanted = any(name.endswith("_ep") for name in self.measures)
        self.needs_logits = self._is_ep_wanted

    def read(
        self,
        outputs: Iterable[Tensor | MemberRows],
        temperature: float = 1.0,
        prefixes: Iterable[Tensor] | None = None,
    ) -> TokenReading:
        """See :meth:`Estimator.read`."""
        rows = only_output(outputs)
        logits = rows.whole()
        # A sum over the vocabulary is finite where its terms are, and costs a tenth of the look.
        require_valid(torch.isfinite(logits.sum(dim=-1)), "logits")
        at_one, found = self._of_rows(rows, logits)
        if "entropy" in self.token_measures:
            is_mean = self.predictive == "mean"
            known = found.get("total_uncertainty" if is_mean else "total_uncertainty_base")
            found["entropy"] = entropy(at_one) if known is None else known
        if "negative_log_max_probability" in self.token_measures:
            found["negative_log_max_probability"] = -at_one.amax(dim=-1)
        return TokenReading(
            tempered(at_one, temperature), {name: found[name] for name in self.token_measures}
        )

    def _of_rows(self, rows: MemberRows, logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return (R, V) what is decoded at temperature 1, and token measures."""
        found: dict[str, Tensor] = {}
        if any(name.startswith("official_") for name in self.token_measures):
            official = [official_token_measures(part, self.offset) for part in row_chunks(logits)]
            for name in official[0]:
                found[name] = torch.cat([part[name] for part in official])
        if not set(self.token_measures) & set(_OF_DIRICHLET):
            rows.log_total = torch.logsumexp(logits, dim=-1).double()
            return predictive_log_probs(logits, self.offset, self.predictive), found
        # Last of all: what is decoded may take the logits' place.
        reading = dirichlet_reading(logits, self.offset, self.predictive, is_free=rows.is_free)
        for name in _OF_DIRICHLET:
            found[name] = getattr(reading.measures, name)
        rows.log_total = reading.log_total
        return reading.log_probs, found

    def token_terms(
        self,
        output: Tensor | MemberRows,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Estimator.token_terms`; (3 + samples, N).

        :class:`DirichletTokenTerms` stacked, then what the drawn members say.
        """
        given = rows_of(output)
        terms = dirichlet_terms_at(given, tokens, rows, self.offset).stack()
        if not self._is_ep_wanted:
            return terms
        drawn = sampled_log_probs(
            given.whole(),
            tokens,
            torch.zeros_like(tokens) if positions is None else positions,
            self.offset,
            samples=self._samples,
            seed=self._seed,
            rows=rows,
        )
        return torch.cat([terms, drawn.to(terms.dtype)])

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """See :meth:`Estimator.token_log_probs`."""
        of_tokens = DirichletTokenTerms(*terms[:3])
        if self.predictive == "mean":
            return of_tokens.log_probs_mean
        return of_tokens.log_probs_base

    def token_uncertainty(self, measures: Mapping[str, Tensor], terms: Tensor) -> dict[str, Tensor]:
        """See :meth:`Estimator.token_uncertainty`."""
        every = dict(measures) | {"negative_log_probability": -self.token_log_probs(terms)}
        return {name: every[name] for name in self.measures if name in every}

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        of_terms = DirichletTokenTerms(*terms[:3])
        of_sequences = joint_dirichlet_measures(of_terms, token_mask)
        if any(name.startswith("official_joint") for name in self.measures):
            of_sequences |= official_joint_measures(of_terms, token_mask)
        if self._is_ep_wanted:
            of_drawn = joint_ensemble_measures(terms[3:], token_mask)
            of_sequences |= {name: v for name, v in of_drawn.items() if name.endswith("_ep")}
        of_tokens = dict(measures) | {"negative_log_probability": -self.token_log_probs(terms)}
        return sequence_values(self.measures, of_tokens, of_sequences, terms[0], token_mask)


class SoftmaxEstimator(OneDistribution):
    """One ordinary model: no disagreement to measure, only the entropy of what it predicts.

    As an ensemble of one it is the same under PE and EP.

    Args:
        options: measures.
    """

    wants_logits = False
    needs_logits = False
    needs_prefix = False

    def __init__(self, options: UncertaintyOptions | None = None) -> None:
        options = options or UncertaintyOptions()
        self.info = ModelInfo(kind="softmax", members=1, predictive="softmax")
        self.measures = resolve_measures(options.measures, "softmax")
        needed = needed_token_measures(self.measures)
        self.token_measures = tuple(name for name in needed if name not in _OF_CHOSEN)

    def read(
        self,
        outputs: Iterable[Tensor | MemberRows],
        temperature: float = 1.0,
        prefixes: Iterable[Tensor] | None = None,
    ) -> TokenReading:
        """See :meth:`Estimator.read`."""
        rows = only_output(outputs)
        member = MemberMixture()
        rows.log_total = member.add_(rows.whole(), is_free=rows.is_free)
        require_valid(~rows.log_total.isnan(), "log-probabilities")  # −∞: probability 0
        found = {"total_uncertainty": member.data_uncertainty, "entropy": member.data_uncertainty}
        if "negative_log_max_probability" in self.token_measures:
            found["negative_log_max_probability"] = -member.log_probs.amax(dim=-1)
        decoded = tempered(member.log_probs, temperature)
        return TokenReading(decoded, {name: found[name] for name in self.token_measures})
