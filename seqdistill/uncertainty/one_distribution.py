"""What estimators share whose model predicts one distribution, without members."""

from collections.abc import Mapping

from torch import Tensor

from seqdistill.uncertainty.options import sequence_values
from seqdistill.uncertainty.outputs import MemberRows, token_log_probs
from seqdistill.uncertainty.sequence import mean_over_positions


class OneDistribution:
    """Terms and sequence measures of an ensemble of one; PE and EP are the same.

    Attributes:
        measures: names of the measures that are given.
    """

    measures: tuple[str, ...]

    def token_terms(
        self,
        output: Tensor | MemberRows,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Estimator.token_terms`; ln p of each token, (1, N)."""
        return token_log_probs(output, tokens, rows).unsqueeze(0)

    def token_log_probs(self, terms: Tensor) -> Tensor:
        """See :meth:`Estimator.token_log_probs`."""
        return terms[0]

    def token_uncertainty(self, measures: Mapping[str, Tensor], terms: Tensor) -> dict[str, Tensor]:
        """See :meth:`Estimator.token_uncertainty`."""
        every = dict(measures) | {"negative_log_probability": -terms[0]}
        return {name: every[name] for name in self.measures if name in every}

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        joint = -mean_over_positions(terms[0], token_mask)
        of_tokens = dict(measures) | {"negative_log_probability": -terms[0]}
        of_sequences = {"joint_total_uncertainty_pe": joint}
        return sequence_values(self.measures, of_tokens, of_sequences, terms[0], token_mask)
