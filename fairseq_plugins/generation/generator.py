"""Beam search whose hypotheses carry their uncertainty."""

from collections.abc import Sequence
from typing import Any

import torch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from torch import Tensor

from fairseq_plugins.generation.distances import attach_distances, rows_of
from fairseq_plugins.generation.ensemble import (
    AlignedUncertaintyEnsembleModel,
    UncertaintyEnsembleModel,
)
from seqdistill.uncertainty.densities import ModelDensity
from seqdistill.uncertainty.estimators import Estimator, UncertaintyOptions


def attach_uncertainty(
    hypotheses: list[dict[str, Any]],
    estimator: Estimator,
    measures: dict[str, Tensor],
    terms: Tensor,
) -> None:
    """Add to finished hypotheses of one length what they met: see the keys below.

    ``token_log_probs`` (T,) under what is decoded, at temperature 1; ``token_uncertainty``
    {measure: (T,)}; ``uncertainty`` {measure: float}; ``model`` a ``ModelInfo``. Nats, and higher =
    more uncertain.

    Args:
        hypotheses: N of fairseq's dicts; changed.
        estimator: of the models that made them.
        measures: token measures as the estimator read them, each (N, T).
        terms: (K, N, T).
    """
    token_log_probs = estimator.token_log_probs(terms)
    of_tokens = estimator.token_uncertainty(measures, terms)
    of_sequences = estimator.sequence_measures(measures, terms)
    columns = {name: values.tolist() for name, values in of_sequences.items()}
    for n, hypothesis in enumerate(hypotheses):
        hypothesis["token_log_probs"] = token_log_probs[n]
        hypothesis["token_uncertainty"] = {name: values[n] for name, values in of_tokens.items()}
        hypothesis["uncertainty"] = {name: values[n] for name, values in columns.items()}
        hypothesis["model"] = estimator.info


class _WithUncertainty(SequenceGenerator):
    """The hooks into fairseq's search: where rows end, and where beams are made alike.

    The search itself is fairseq's, unchanged: same hypotheses, same scores, no second pass.
    """

    def finalize_hypos(
        self,
        step: int,
        bbsz_idx: Tensor,
        eos_scores: Tensor,
        tokens: Tensor,
        scores: Tensor,
        finalized: list[list[dict[str, Any]]],
        finished: list[bool],
        beam_size: int,
        *args: Any,
        **kwargs: Any,
    ) -> list[int]:
        """Let fairseq end the rows ``bbsz_idx``, then attach their measures to what it appended."""
        # Rows count the sentences still in the batch; `finished` and `finalized` count them all.
        sentences = [s for s, is_finished in enumerate(finished) if not is_finished]
        counts = [len(hypotheses) for hypotheses in finalized]
        newly_finished: list[int] = super().finalize_hypos(
            step, bbsz_idx, eos_scores, tokens, scores, finalized, finished, beam_size,
            *args, **kwargs,
        )  # fmt: skip

        # fairseq goes through the rows in order and leaves out those that a sentence, complete with
        # beam_size hypotheses, no longer needs.
        kept_rows, kept_sentences, hypotheses = [], [], []
        for row in bbsz_idx.tolist():
            sentence = sentences[row // beam_size]
            if counts[sentence] < len(finalized[sentence]):
                kept_rows.append(row)
                kept_sentences.append(sentence)
                hypotheses.append(finalized[sentence][counts[sentence]])
                counts[sentence] += 1
        history, densities = self.model.history, self.model.densities
        rows = torch.tensor(kept_rows, dtype=torch.long, device=bbsz_idx.device)
        measures, terms = history.finish(rows, self.eos)
        attach_uncertainty(hypotheses, history.estimator, measures, terms)
        if densities is not None and history.feature_sums is not None:
            encoded = rows_of(self.model.encoded, kept_sentences)
            attach_distances(hypotheses, densities, encoded, history.feature_sums.means(rows))
        return newly_finished

    def replicate_first_beam(self, tensor: Tensor, mask: Tensor, beam_size: int) -> Tensor:
        """Make the beams of sentences whose prefix ends alike; fairseq calls it per tensor."""
        # Doing so repeatedly changes nothing more.
        self.model.history.replicate_first_beam(mask, beam_size)
        replicated: Tensor = super().replicate_first_beam(tensor, mask, beam_size)
        return replicated


class UncertaintySequenceGenerator(_WithUncertainty):
    """fairseq's ``SequenceGenerator`` with measures in every hypothesis.

    See :func:`attach_uncertainty` for the keys. The measures are those of the models at temperature
    1, whatever ``--temperature``, penalties, constraints or language model the search was under.
    Combined as an expectation of products, members count by what they gave to the tokens so far,
    at temperature 1 as well.

    Args:
        models: fairseq models: several, one, or one Dirichlet student (``model.student_head``).
        tgt_dict: the target dictionary.
        options: measures and combination of the members; None: the defaults, PE.
        densities: of the models' features; ``uncertainty`` then has the distances from them, from
            features that the search itself has computed.
        **kwargs: as for ``SequenceGenerator``.
    """

    def __init__(
        self,
        models: Any,
        tgt_dict: Any,
        options: UncertaintyOptions | None = None,
        densities: Sequence[ModelDensity] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(UncertaintyEnsembleModel(models, options, densities), tgt_dict, **kwargs)


class AlignedUncertaintySequenceGenerator(_WithUncertainty, SequenceGeneratorWithAlignment):
    """The same for ``--print-alignment``.

    Args:
        models: as above.
        tgt_dict: the target dictionary.
        options: as above.
        densities: as above.
        **kwargs: as for ``SequenceGeneratorWithAlignment``.
    """

    def __init__(
        self,
        models: Any,
        tgt_dict: Any,
        options: UncertaintyOptions | None = None,
        densities: Sequence[ModelDensity] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(models, tgt_dict, **kwargs)
        # fairseq's class makes its own wrapper of the models; ours takes its place.
        self.model = AlignedUncertaintyEnsembleModel(models, options, densities)
        self.model.set_decoder_beam_size(self.beam_size)
        self.model.eval()
