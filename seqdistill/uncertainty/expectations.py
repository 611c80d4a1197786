"""The estimator of a student that predicts expectations beside the predictive distribution."""

from collections.abc import Iterable

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.kernels.mixture import MemberMixture
from seqdistill.student.expectations import expectation_measures, expected_values
from seqdistill.uncertainty.measures import ALL, DEFAULT, UNNORMALISED_PREFIX, resolve_measures
from seqdistill.uncertainty.one_distribution import OneDistribution
from seqdistill.uncertainty.options import (
    UncertaintyOptions,
    needed_token_measures,
)
from seqdistill.uncertainty.outputs import MemberRows, ProjectedRows
from seqdistill.uncertainty.reading import TokenReading, only_output, require_valid, tempered

KIND = "expectations"

#: What nothing is known of where neither EPKL nor RMI was learnt.
_OF_SECOND_PAIR = ("epkl", "reverse_mutual_information")
_OF_CHOSEN = ("negative_log_probability",)


class ExpectationRows(ProjectedRows):
    """Rows of a student: its logits by their features, and its outputs (R, K) beside them."""

    def __init__(
        self, features: Tensor, weight: Tensor, bias: Tensor | None, outputs: Tensor
    ) -> None:
        super().__init__(features, weight, bias)
        self.outputs = outputs


class ExpectationsEstimator(OneDistribution):
    """One student of distilled expectations; its rows are :class:`ExpectationRows`.

    Args:
        names: of the expectations, as the head has them.
        options: measures.

    Raises:
        InputError: a measure that does not follow from what the student predicts.
    """

    wants_logits = False
    needs_logits = False
    needs_prefix = False

    def __init__(self, names: tuple[str, ...], options: UncertaintyOptions | None = None) -> None:
        options = options or UncertaintyOptions()
        if options.combination != "pe":
            raise InputError(
                "a student of expectations has no members to combine; leave "
                "--ensemble-combination ep away"
            )
        self.names = names
        self.info = ModelInfo(kind=KIND, members=1, predictive="softmax")
        self.measures = self._chosen(options.measures)
        needed = needed_token_measures(self.measures)
        self.token_measures = tuple(name for name in needed if name not in _OF_CHOSEN)

    def _chosen(self, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        names = resolve_measures(wanted, KIND)
        if set(_OF_SECOND_PAIR) & set(self.names):
            return names
        unknown = {
            prefix + name for name in _OF_SECOND_PAIR for prefix in ("", UNNORMALISED_PREFIX)
        }
        asked = [name for name in wanted or () if name in unknown]
        if asked:
            raise InputError(
                f"{', '.join(asked)}: this student learnt {', '.join(self.names)}, from which "
                f"neither {' nor '.join(_OF_SECOND_PAIR)} follows; choose {ALL} or {DEFAULT} for "
                "what it has, or train one with --expectations"
            )
        return tuple(name for name in names if name not in unknown)

    def read(
        self,
        outputs: Iterable[Tensor | MemberRows],
        temperature: float = 1.0,
        prefixes: Iterable[Tensor] | None = None,
    ) -> TokenReading:
        """See :meth:`Estimator.read`."""
        rows = only_output(outputs)
        if not isinstance(rows, ExpectationRows):
            raise InputError(
                f"expected the outputs of a student of expectations, got {type(rows).__name__}"
            )
        member = MemberMixture()
        rows.log_total = member.add_(rows.whole(), is_free=rows.is_free)
        values = expected_values(rows.outputs)
        require_valid(~rows.log_total.isnan() & values.isfinite().all(-1), "outputs")
        found = expectation_measures(self.names, values, member.data_uncertainty)
        found["entropy"] = member.data_uncertainty
        if "negative_log_max_probability" in self.token_measures:
            found["negative_log_max_probability"] = -member.log_probs.amax(dim=-1)
        decoded = tempered(member.log_probs, temperature)
        return TokenReading(decoded, {name: found[name] for name in self.token_measures})
