"""Given targets, force-decoded, with the measures that decoding them would have met."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fairseq_plugins.features import token_logits
from fairseq_plugins.generation.ensemble import estimator_of, member_output
from fairseq_plugins.generation.generator import attach_uncertainty
from seqdistill.errors import InputError
from seqdistill.uncertainty.estimators import UncertaintyOptions


class UncertaintyScorer:
    """Scores the targets of a batch; used by fairseq-generate with ``--score-reference``.

    Args:
        tgt_dict: the target dictionary.
        eos: end of sentence; the dictionary's by default.
        options: measures and combination of the members; None: the defaults, PE.
    """

    def __init__(
        self, tgt_dict: Any, eos: int | None = None, options: UncertaintyOptions | None = None
    ) -> None:
        self.options = options
        self.pad = tgt_dict.pad()
        self.eos = tgt_dict.eos() if eos is None else eos
        self.symbols_to_strip_from_output = {self.eos}

    @torch.no_grad()
    def generate(self, models: Any, sample: dict[str, Any], **_: Any) -> list[list[dict[str, Any]]]:
        """Score a batch: one hypothesis a sentence, which is its target.

        Args:
            models: fairseq models, as for decoding.
            sample: a batch with ``net_input`` (B sentences) and ``target`` (B, T); sources may be
                padded left or right, targets right or left. Padding changes nothing.

        Returns:
            For each sentence a list of one dict, with fairseq's keys, those of decoding (see
            :func:`~fairseq_plugins.generation.generator.attach_uncertainty`), ``forced`` True,
            ``token_confidence`` (T,), the largest probability, and ``token_correct`` (T,), whether
            the most probable token is the target's.

        Raises:
            InputError: there are no targets, or a member gave NaN.
        """
        target = sample.get("target")
        if target is None:
            raise InputError(
                "--score-reference scores given targets, and this data set has none; "
                "preprocess it with both languages"
            )
        counted = target.ne(self.pad)
        for sentence, start in enumerate(sample.get("start_indices", ())):
            counted[sentence, :start] = False
        tokens = target[counted]  # (N,): positions of all sentences, one after another
        rows = torch.arange(tokens.numel(), device=tokens.device)
        positions = (counted.cumsum(dim=1) - 1)[counted]
        estimator = estimator_of(models, self.options)
        terms: list[Tensor] = []

        def read_members() -> Iterator[Tensor]:
            for model in models:
                model.eval()
                # Padded positions are dropped before the maths: whatever they hold is not read.
                logits = token_logits(model, sample["net_input"], counted)  # (N, V)
                output = member_output(model, (logits, None), estimator)
                terms.append(estimator.token_terms(output, tokens, rows, positions))
                yield output

        def prefixes() -> Iterator[Tensor]:
            for _ in models:
                yield _sums_before(terms[-1][0], counted)

        reading = estimator.read(
            read_members(), prefixes=prefixes() if estimator.needs_prefix else None
        )
        confidence, best = reading.log_probs.max(dim=-1)
        confidence = confidence.exp()
        correct = best == tokens
        all_terms = torch.cat(terms)  # (K, N)

        results = []
        start = 0
        for sentence, length in enumerate(counted.sum(dim=1).tolist()):
            of_sentence = slice(start, start + length)
            start += length
            hypothesis: dict[str, Any] = {
                "tokens": target[sentence, counted[sentence]],
                "attention": None,
                "alignment": None,
                "forced": True,
                "token_confidence": confidence[of_sentence],
                "token_correct": correct[of_sentence],
            }
            attach_uncertainty(
                [hypothesis],
                estimator,
                {name: v[of_sentence].unsqueeze(0) for name, v in reading.measures.items()},
                all_terms[:, of_sentence].unsqueeze(1),
            )
            # A copy: fairseq-generate turns these into base 2 in place.
            hypothesis["positional_scores"] = hypothesis["token_log_probs"].clone()
            hypothesis["score"] = hypothesis["positional_scores"].mean()
            results.append([hypothesis])
        return results


def _sums_before(values: Tensor, counted: Tensor) -> Tensor:
    """Return (N,) the sums, in float64, of the values (N,) before each in its own sentence.

    ``counted`` (B, T) says where the N positions are.
    """
    table = torch.zeros(counted.shape, dtype=torch.float64, device=values.device)
    table[counted] = values.double()
    return (table.cumsum(dim=1) - table)[counted]
