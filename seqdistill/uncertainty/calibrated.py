"""The estimator of a calibrated model: it searches as the model does, and reports what it believes.

What is decoded is the model's own p, number for number. What is reported of a position is of the
Concrete distribution that the calibrator puts there: E[x] is the prediction, the total uncertainty
its entropy, the data uncertainty E[H(x)], and knowledge uncertainty what lies between.
"""

from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.uncertainty.calibrator import CalibratedRows, Calibrator
from seqdistill.uncertainty.measures import resolve_measures
from seqdistill.uncertainty.one_distribution import OneDistribution
from seqdistill.uncertainty.options import (
    UncertaintyOptions,
    needed_token_measures,
    sequence_values,
)
from seqdistill.uncertainty.outputs import MemberRows, ProjectedRows, rows_of
from seqdistill.uncertainty.reading import (
    Estimator,
    TokenReading,
    entropy,
    only_output,
    require_valid,
    row_chunks,
    tempered,
)
from seqdistill.uncertainty.sequence import mean_over_positions

_OF_CHOSEN = ("negative_log_probability",)
_ELEMENTS = 1 << 20  # of the rows that are calibrated at once: temporaries of about 20 MB
_OF_MOMENTS = (
    "total_uncertainty",
    "data_uncertainty",
    "mutual_information",
    "epkl",
    "reverse_mutual_information",
)


class CalibratedEstimator(OneDistribution):
    """One model whose predictions are calibrated.

    Args:
        model: its own estimator, which says what is decoded.
        calibrator: fitted for that model.
        options: measures.

    Raises:
        InputError: the model is an ensemble or a student with more outputs.
    """

    needs_logits = False
    needs_prefix = False

    def __init__(
        self, model: Estimator, calibrator: Calibrator, options: UncertaintyOptions
    ) -> None:
        if model.info.kind not in ("softmax", "dirichlet") or model.info.members != 1:
            raise InputError(
                f"a calibration is of one ordinary model or one Dirichlet student, not of "
                f"{model.info.members} of kind {model.info.kind}"
            )
        self.model, self.calibrator = model, calibrator
        self.wants_logits = model.wants_logits
        self.info = ModelInfo(kind="calibrated", members=1, predictive="calibrated")
        self.measures = resolve_measures(options.measures, "calibrated")
        needed = needed_token_measures(self.measures)
        self.token_measures = tuple(name for name in needed if name not in _OF_CHOSEN)
        self._read: WeakKeyDictionary[MemberRows, CalibratedRows] = WeakKeyDictionary()

    def read(
        self,
        outputs: Iterable[Tensor | MemberRows],
        temperature: float = 1.0,
        prefixes: Iterable[Tensor] | None = None,
    ) -> TokenReading:
        """See :meth:`Estimator.read`."""
        rows = only_output(outputs)
        decoded = self.model.read([rows]).log_probs
        require_valid(torch.isfinite(decoded.sum(dim=-1)), "log-probabilities")
        calibrated = self._calibrated(rows, decoded)
        self._read[rows] = calibrated
        found = {name: getattr(calibrated.moments, name) for name in _OF_MOMENTS}
        found["entropy"] = found["total_uncertainty"]
        if "total_uncertainty_base" in self.token_measures:
            found["total_uncertainty_base"] = entropy(decoded)
        if "negative_log_max_probability" in self.token_measures:
            top = decoded.amax(dim=-1, keepdim=True)
            found["negative_log_max_probability"] = -calibrated.log_probs(top).squeeze(-1)
        return TokenReading(
            tempered(decoded, temperature),
            {name: found[name].float() for name in self.token_measures},
        )

    def reported(self, outputs: Iterable[Tensor | MemberRows]) -> Tensor:
        """Return (R, V) ln E[x] of rows, float32: a distribution in the order of what is decoded.

        Args:
            outputs: as of :meth:`Estimator.read`.
        """
        rows = only_output(outputs)
        decoded = self.model.read([rows]).log_probs
        calibrated = self._read.get(rows) or self._calibrated(rows, decoded)
        parts = row_chunks(decoded)
        first, found = 0, []
        for part in parts:
            here = torch.arange(first, first + len(part), device=part.device)
            first += len(part)
            found.append(calibrated.at(here).log_probs(part).float())
        return torch.cat(found)

    def token_terms(
        self,
        output: Tensor | MemberRows,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Estimator.token_terms`; (3, N): ln E[x], E[ln x] and ln p of each token."""
        given = rows_of(output)
        if given not in self._read:
            self.read([given])
        here = self._read[given].at(rows)
        terms = self.model.token_terms(given, tokens, rows, positions)
        decoded = self.model.token_log_probs(terms)
        column = decoded.unsqueeze(-1)
        believed = here.log_probs(column).squeeze(-1)
        return torch.stack([believed, here.means_of_logs(column).squeeze(-1), decoded.double()])

    def sequence_measures(
        self, measures: Mapping[str, Tensor], terms: Tensor, token_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`Estimator.sequence_measures`."""
        believed, of_logs, decoded = terms.double()
        of_sequences = {
            "joint_total_uncertainty_pe": -mean_over_positions(believed, token_mask),
            "joint_reverse_mutual_information_pe": mean_over_positions(
                believed - of_logs, token_mask
            ),
            "joint_total_uncertainty_base": -mean_over_positions(decoded, token_mask),
        }
        of_tokens = dict(measures) | {"negative_log_probability": -terms[0]}
        return sequence_values(self.measures, of_tokens, of_sequences, terms[0], token_mask)

    def _calibrated(self, rows: MemberRows, decoded: Tensor) -> CalibratedRows:
        if not isinstance(rows, ProjectedRows):
            raise InputError(
                "a calibration reads the features of a decoder with an ordinary output projection, "
                "and this model does not give them"
            )
        require_valid(torch.isfinite(decoded.sum(dim=-1)), "log-probabilities")
        count = max(1, _ELEMENTS // decoded.shape[-1])
        with torch.no_grad():
            parts = [
                self.calibrator(log_probs, features)
                for log_probs, features in zip(
                    torch.split(decoded, count), torch.split(rows.features, count), strict=True
                )
            ]
        return CalibratedRows.join(parts)
