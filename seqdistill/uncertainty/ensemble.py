"""The estimator of several ordinary models."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.kernels.mixture import MemberMixture
from seqdistill.teachers import StatisticsAccumulator
from seqdistill.uncertainty.measures import resolve_measures
from seqdistill.uncertainty.mixtures import (
    LogMixture,
    ep_measures,
    ep_token_log_probs,
    ep_token_measures,
)
from seqdistill.uncertainty.options import (
    UncertaintyOptions,
    needed_token_measures,
    sequence_values,
)
from seqdistill.uncertainty.outputs import (
    MemberRows,
    log_probs_of,
    rows_of,
    token_log_probs,
)
from seqdistill.uncertainty.reading import TokenReading, tempered
from seqdistill.uncertainty.sequence import (
    joint_ensemble_measures,
    member_score_variance,
    mixture_log_probs,
)

_OF_STATISTICS = (
    "total_uncertainty",
    "data_uncertainty",
    "mutual_information",
    "epkl",
    "reverse_mutual_information",
)
_OF_CHOSEN = ("negative_log_probability",)
_EP_AT_ONE = ("ep", 1.0)

#: Below it, float32 sums of probabilities may have lost some members' shares.
_LEAST_OF_SUMS = 1e-30


class EnsembleEstimator:
    """Several ordinary models, combined as a product of expectations or the other way round.

    Args:
        members: M ≥ 2.
        options: measures and combination.
        kind: what the members are: ``ensemble``, models of their own, or ``hydra``, heads.
    """

    wants_logits = False
    needs_logits = False

    def __init__(
        self, members: int, options: UncertaintyOptions | None = None, kind: str = "ensemble"
    ) -> None:
        options = options or UncertaintyOptions()
        self.info = ModelInfo(kind=kind, members=members, predictive=options.combination)
        self.measures = resolve_measures(options.measures, kind)
        needed = needed_token_measures(self.measures)
        self.token_measures = tuple(name for name in needed if name not in _OF_CHOSEN)
        self._combination = options.combination
        self._wants_decoded = bool({"entropy", "negative_log_max_probability"} & set(needed))
        self._wants_ep = any(name.endswith("_ep") for name in needed) or (
            self._wants_decoded and self._combination == "ep"
        )
        self.needs_prefix = self._wants_ep or self._combination == "ep"

    def read(
        self,
        outputs: Iterable[Tensor | MemberRows],
        temperature: float = 1.0,
        prefixes: Iterable[Tensor] | None = None,
    ) -> TokenReading:
        """See :meth:`Estimator.read`."""
        weights = repeat(None) if prefixes is None or not self.needs_prefix else prefixes
        if isinstance(outputs, Sequence) and temperature == 1.0:
            rows = [rows_of(output) for output in outputs]
            return self._read_rows(rows, [w for _, w in zip(rows, weights, strict=False)])
        accumulator = StatisticsAccumulator()
        searched = self._combination, temperature
        at_one = self._combination, 1.0
        mixtures = {searched: LogMixture()}
        if self._wants_decoded:
            mixtures.setdefault(at_one, LogMixture())
        if self._wants_ep:
            mixtures.setdefault(_EP_AT_ONE, LogMixture())
        for log_probs, prefix in zip(map(log_probs_of, outputs), weights, strict=False):
            accumulator.add(log_probs)
            for (combination, degree), mixture in mixtures.items():
                mixture.add(tempered(log_probs, degree), prefix if combination == "ep" else None)
            del log_probs  # it would stay while the iterable makes the next one
        statistics = accumulator.statistics()
        found = {name: getattr(statistics, name) for name in _OF_STATISTICS}
        made = {key: mixture.log_probs() for key, mixture in mixtures.items()}
        if self._wants_ep:
            found |= ep_token_measures(
                made[_EP_AT_ONE], statistics.mean_log_probs, statistics.data_uncertainty
            )
        if self._wants_decoded:
            is_ep = self._combination == "ep"
            found["entropy"] = found["total_uncertainty_ep" if is_ep else "total_uncertainty"]
            found["negative_log_max_probability"] = -made[at_one].amax(dim=-1)
        return TokenReading(made[searched], {name: found[name] for name in self.token_measures})

    def _read_rows(
        self, outputs: Sequence[MemberRows], prefixes: Sequence[Tensor | None]
    ) -> TokenReading:
        """Read members whose rows can be made once more, by the row kernels."""
        is_ep = self._combination == "ep"
        mixture = MemberMixture(is_weighted=self.needs_prefix)
        for output, prefix in zip(outputs, prefixes, strict=True):
            output.log_total = mixture.add_(output.whole(), prefix, is_free=output.is_free)
        _require_numbers(outputs)
        data = mixture.data_uncertainty
        pe = mixture.read_("pe", wants_log=not is_ep)
        mutual_information = (pe.entropy - data).clamp_min(0.0)
        rmi = pe.reverse_mutual_information
        found = {
            "total_uncertainty": pe.entropy,
            "data_uncertainty": data,
            "mutual_information": mutual_information,
            "epkl": mutual_information + rmi,
            "reverse_mutual_information": rmi,
        }
        decoded = pe
        if self.needs_prefix:
            ep = mixture.read_("ep", wants_log=is_ep)
            found |= ep_measures(ep.entropy, ep.reverse_mutual_information, data)
            decoded = ep if is_ep else pe
        found["entropy"] = decoded.entropy
        found["negative_log_max_probability"] = -decoded.largest.log()
        log_probs = decoded.log_probs
        assert log_probs is not None  # as asked for
        # Sums end at 1e-38, and a forced prefix may go beyond: those rows again, in logarithms.
        lost = (decoded.least < _LEAST_OF_SUMS).nonzero().squeeze(-1)
        if len(lost):
            exact = LogMixture()
            for output, prefix in zip(outputs, prefixes, strict=True):
                here = torch.log_softmax(output.whole(lost), dim=-1)
                weight = prefix if prefix is None or not is_ep else prefix[lost]
                exact.add(here, weight if is_ep else None)
            log_probs[lost] = exact.log_probs().to(log_probs.dtype)
        return TokenReading(log_probs, {name: found[name] for name in self.token_measures})

    def token_terms(
        self,
        output: Tensor | MemberRows,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Estimator.token_terms`; ln p_m of each token, (1, N)."""
        return token_log_probs(output, tokens, rows).unsqueeze(0)

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """See :meth:`Estimator.token_log_probs`."""
        if self._combination == "ep":
            return ep_token_log_probs(terms)
        return mixture_log_probs(terms)

    def token_uncertainty(self, measures: Mapping[str, Tensor], terms: Tensor) -> dict[str, Tensor]:
        """See :meth:`Estimator.token_uncertainty`."""
        every = self._of_tokens(measures, terms)
        return {name: every[name] for name in self.measures if name in every}

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        of_sequences = joint_ensemble_measures(terms, token_mask)
        if "member_score_variance" in self.measures:
            of_sequences["member_score_variance"] = member_score_variance(terms, token_mask)
        of_tokens = self._of_tokens(measures, terms)
        return sequence_values(self.measures, of_tokens, of_sequences, terms[0], token_mask)

    def _of_tokens(self, measures: Mapping[str, Tensor], terms: Tensor) -> dict[str, Tensor]:
        of_tokens = dict(measures)
        if "negative_log_probability" in self.measures:
            of_tokens["negative_log_probability"] = -self.token_log_probs(terms)
        return of_tokens


def _require_numbers(outputs: Sequence[MemberRows]) -> None:
    totals = [output.log_total for output in outputs if output.log_total is not None]
    # One look for all members.
    invalid = torch.stack(totals).isnan().sum(dim=-1)
    if bool(invalid.any()):
        m = int(invalid.nonzero()[0])
        raise InputError(
            f"NaN log-probabilities from member {m + 1} ({int(invalid[m])} tokens); check that "
            "checkpoint, and its dtype (float16 overflows where bfloat16 and float32 do not)"
        )
