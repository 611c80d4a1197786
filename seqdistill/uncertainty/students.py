"""The estimator of several Dirichlet students: one distribution over members, their mixture.

Each student is a Dirichlet over members; all of them together are a mixture of Dirichlets, and its
measures stay closed forms: expectations over it are means of the students' expectations,

    p̄ = mean_m E_m[π],   TU = H(p̄),   DU = mean_m DU_m,   RMI = Σ p̄ (ln p̄ − mean_m E_m[ln π])

so MI = TU − DU holds what each student emulates and what the students disagree about.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.numerics import DirichletTerms
from seqdistill.uncertainty.dirichlet import dirichlet_uncertainty
from seqdistill.uncertainty.measures import ALL, resolve_measures
from seqdistill.uncertainty.mixtures import LogMixture
from seqdistill.uncertainty.options import (
    UncertaintyOptions,
    needed_token_measures,
    sequence_values,
)
from seqdistill.uncertainty.outputs import MemberRows, rows_of
from seqdistill.uncertainty.reading import TokenReading, entropy, require_valid, tempered
from seqdistill.uncertainty.sequence import (
    dirichlet_terms_at,
    mean_over_positions,
    mixture_log_probs,
)

_OF_CHOSEN = ("negative_log_probability",)
_TERMS = 3  # of each student: what DirichletTokenTerms stacks


class DirichletMixtureEstimator:
    """M Dirichlet students with one offset and predictive; their outputs are raw logits.

    Args:
        members: M ≥ 2.
        offset: 1 or 0.
        predictive: what is decoded: the mean over students of their ``base`` or ``mean``.
        options: measures.

    Raises:
        InputError: options that a mixture of Dirichlets does not have.
    """

    wants_logits = True
    needs_logits = False
    needs_prefix = False

    def __init__(
        self,
        members: int,
        offset: float,
        predictive: str,
        options: UncertaintyOptions | None = None,
    ) -> None:
        options = options or UncertaintyOptions()
        if options.combination != "pe" or options.dirichlet_samples:
            raise InputError(
                f"{members} Dirichlet students are combined as a product of expectations, without "
                "drawn members; leave --ensemble-combination ep and --dirichlet-samples away"
            )
        self.offset = offset
        self.predictive = predictive
        self.info = ModelInfo("dirichlet", members, predictive, offset)
        names = resolve_measures(options.measures, "dirichlet")
        official = [name for name in names if name.removeprefix("official_") != name]
        if official and ALL not in (options.measures or ()):
            raise InputError(
                f"{', '.join(official)}: the research code has no measures of several students; "
                "give one --path"
            )
        self.measures = tuple(name for name in names if name not in official)
        needed = needed_token_measures(self.measures)
        self.token_measures = tuple(name for name in needed if name not in _OF_CHOSEN)

    def read(
        self,
        outputs: Iterable[Tensor | MemberRows],
        temperature: float = 1.0,
        prefixes: Iterable[Tensor] | None = None,
    ) -> TokenReading:
        """See :meth:`Estimator.read`."""
        means, bases, searched = LogMixture(), LogMixture(), LogMixture()
        expected_log: Tensor | None = None
        data: list[Tensor] = []
        inverse_precision: list[Tensor] = []
        for m, rows in enumerate(map(rows_of, outputs), start=1):
            logits = rows.whole()
            require_valid(torch.isfinite(logits.sum(dim=-1)), "logits", m)
            terms = DirichletTerms(logits, self.offset)
            rows.log_total = terms.log_sum.squeeze(-1)
            of_student = dirichlet_uncertainty(logits, self.offset)
            data.append(of_student.data_uncertainty)
            inverse_precision.append(of_student.inverse_precision)
            means.add(terms.log_mean)
            bases.add(terms.log_probs)
            decoded = terms.log_mean if self.predictive == "mean" else terms.log_probs
            searched.add(tempered(decoded, temperature))
            here = terms.expected_log
            expected_log = here if expected_log is None else expected_log + here
        if expected_log is None:
            raise InputError("expected the output of at least one model, got none")
        log_mean, log_base = means.log_probs(), bases.log_probs()
        at_one = log_mean if self.predictive == "mean" else log_base
        total, du = entropy(log_mean), torch.stack(data).mean(dim=0)
        # Differences first, then the sum: students that are sure would cancel otherwise.
        rmi = (log_mean.exp() * (log_mean - expected_log / means.count)).sum(dim=-1)
        mutual_information = (total - du).clamp_min(0.0)
        found = {
            "total_uncertainty": total,
            "data_uncertainty": du,
            "mutual_information": mutual_information,
            "epkl": mutual_information + rmi,
            "reverse_mutual_information": rmi,
            "total_uncertainty_base": entropy(log_base),
            "inverse_precision": torch.stack(inverse_precision).mean(dim=0),
            "entropy": entropy(at_one),
            "negative_log_max_probability": -at_one.amax(dim=-1),
        }
        return TokenReading(
            searched.log_probs(), {name: found[name] for name in self.token_measures}
        )

    def token_terms(
        self,
        output: Tensor | MemberRows,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Estimator.token_terms`; ``DirichletTokenTerms`` stacked, (3, N)."""
        return dirichlet_terms_at(rows_of(output), tokens, rows, self.offset).stack()

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """See :meth:`Estimator.token_log_probs`."""
        return mixture_log_probs(terms[0 if self.predictive == "mean" else 1 :: _TERMS])

    def token_uncertainty(self, measures: Mapping[str, Tensor], terms: Tensor) -> dict[str, Tensor]:
        """See :meth:`Estimator.token_uncertainty`."""
        every = dict(measures) | {"negative_log_probability": -self.token_log_probs(terms)}
        return {name: every[name] for name in self.measures if name in every}

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        log_means, log_bases, gaps = (terms[part::_TERMS].double() for part in range(_TERMS))
        mean = mixture_log_probs(log_means)
        expected_log = (log_means - gaps).mean(dim=0)
        of_sequences = {
            "joint_total_uncertainty_pe": -mean_over_positions(mean, token_mask),
            "joint_total_uncertainty_base": -mean_over_positions(
                mixture_log_probs(log_bases), token_mask
            ),
            "joint_reverse_mutual_information_pe": mean_over_positions(
                mean - expected_log, token_mask
            ).clamp_min(0.0),
        }
        of_tokens = dict(measures) | {"negative_log_probability": -self.token_log_probs(terms)}
        return sequence_values(self.measures, of_tokens, of_sequences, terms[0], token_mask)
