"""What each row of a beam search has met so far: it follows the beams, position by position."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fairseq_plugins.generation.distances import FeatureSums
from seqdistill.uncertainty.estimators import Estimator, TokenReading
from seqdistill.uncertainty.outputs import MemberRows


class BeamHistory:
    """Token measures and the terms of the chosen tokens, for every row (sentence × beam).

    A step's measures are known when its distribution is; its chosen token only at the next step, or
    when the row ends. So the outputs of the newest step are kept until its tokens can be looked
    up, and where a beam is continued twice, or a sentence leaves the batch, ``rows`` says which row
    of those outputs a row came from: nothing vocabulary-sized is ever reordered.

    Args:
        estimator: what the outputs mean.
        feature_sums: of the decoders' features, where distances from densities are wanted.
    """

    def __init__(self, estimator: Estimator, feature_sums: FeatureSums | None = None) -> None:
        self.estimator = estimator
        self.feature_sums = feature_sums
        self.measures: Tensor | None = None  # (names, rows, steps)
        self.terms: Tensor | None = None  # (K, rows, steps - 1): the newest step has no token yet
        self.outputs: Sequence[MemberRows] = ()  # of the newest step, M
        self.rows: Tensor | None = None  # (rows,) the row of ``outputs`` that each row came from
        #: (K, rows) sums of the terms so far, ln P_m(y_<l); only where the estimator wants them.
        self.prefix: Tensor | None = None

    @property
    def steps(self) -> int:
        """Number of positions read."""
        return 0 if self.measures is None else self.measures.shape[-1]

    def choose(self, tokens: Tensor) -> None:
        """Take note of the tokens (rows,) with which the rows were continued."""
        if self.measures is None:
            return
        chosen = self._look_up(tokens, torch.arange(len(tokens), device=tokens.device))
        self.terms = chosen if self.terms is None else torch.cat([self.terms, chosen], dim=-1)
        if self.estimator.needs_prefix:
            newest = chosen.squeeze(-1).double()
            self.prefix = newest if self.prefix is None else self.prefix + newest

    def append(
        self,
        reading: TokenReading,
        outputs: Sequence[MemberRows],
        features: Sequence[Tensor] = (),
    ) -> None:
        """Add a step: its measures, and the members' outputs in which to look up its tokens.

        ``features``, M × (rows, D), are those of the step's position, if their sums are kept.
        """
        rows = reading.log_probs
        values = rows.new_empty(len(self.estimator.token_measures), rows.shape[0], 1)
        for value, name in zip(values, self.estimator.token_measures, strict=True):
            value[:, 0] = reading.measures[name]
        self.measures = values if self.measures is None else torch.cat([self.measures, values], -1)
        self.outputs = outputs
        if self.feature_sums is not None:
            self.feature_sums.add(features)
        self.rows = torch.arange(values.shape[1], device=values.device)

    def reorder(self, order: Tensor) -> None:
        """Make row i the continuation of row ``order[i]``."""
        if self.measures is None or self.rows is None:
            return
        self.measures = self.measures.index_select(1, order)
        if self.terms is not None:
            self.terms = self.terms.index_select(1, order)
        if self.prefix is not None:
            self.prefix = self.prefix.index_select(1, order)
        if self.feature_sums is not None:
            self.feature_sums.reorder(order)
        self.rows = self.rows.index_select(0, order)

    def replicate_first_beam(self, sentence_mask: Tensor, beam_size: int) -> None:
        """Give all beams of the masked sentences (sentences,) the history of their first beam."""
        row = torch.arange(len(sentence_mask) * beam_size, device=sentence_mask.device)
        is_replaced = sentence_mask.repeat_interleave(beam_size)
        self.reorder(torch.where(is_replaced, row - row % beam_size, row))

    def finish(self, rows: Tensor, last_token: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return what the given rows have met, ended now by ``last_token``.

        Returns:
            Token measures by name, each (N, steps), and terms (K, N, steps).
        """
        assert self.measures is not None  # a row ends after it was read
        measures = self.measures.index_select(1, rows)
        terms = self._look_up(torch.full_like(rows, last_token), rows)
        if self.terms is not None:
            terms = torch.cat([self.terms.index_select(1, rows), terms], dim=-1)
        return dict(zip(self.estimator.token_measures, measures, strict=True)), terms

    def _look_up(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return (K, N, 1) terms of tokens (N,) chosen at the newest step by the rows (N,)."""
        assert self.rows is not None
        came_from = self.rows.index_select(0, rows)
        positions = torch.full_like(tokens, self.steps - 1)
        terms = [
            self.estimator.token_terms(out, tokens, came_from, positions) for out in self.outputs
        ]
        return torch.cat(terms).unsqueeze(-1)
