"""Given targets, force-decoded, with the measures that decoding them would have met."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fairseq_plugins.features import (
    TokenFeatures,
    encode_and_decode,
    pooled_by_sentence,
    token_features,
    token_logits,
)
from fairseq_plugins.generation.distances import attach_distances
from fairseq_plugins.generation.ensemble import estimator_of, member_output
from fairseq_plugins.generation.generator import attach_uncertainty
from fairseq_plugins.generation.second import SecondSystem
from fairseq_plugins.outputs import rows_of_student, student_outputs
from seqdistill.errors import InputError
from seqdistill.hypotheses import ModelInfo
from seqdistill.uncertainty.calibrated import CalibratedEstimator
from seqdistill.uncertainty.densities import SIDES, ModelDensity
from seqdistill.uncertainty.estimators import Estimator, TokenReading, UncertaintyOptions
from seqdistill.uncertainty.outputs import MemberRows, ProjectedRows
from seqdistill.uncertainty.second_reading import (
    check_temperatures,
    compare_predictions,
    log_partitions,
)


class UncertaintyScorer:
    """Scores the targets of a batch; used by fairseq-generate with ``--score-reference``.

    Args:
        tgt_dict: the target dictionary.
        eos: end of sentence; the dictionary's by default.
        options: measures and combination of the members; None: the defaults, PE.
        against: a second system that reads the same prefixes, for exact comparisons.
        temperatures: what each would make of the predictions is recorded.
        densities: of the models' features, if distances from them are wanted.

    Raises:
        InputError: temperatures that are none.
    """

    def __init__(
        self,
        tgt_dict: Any,
        eos: int | None = None,
        options: UncertaintyOptions | None = None,
        *,
        against: SecondSystem | None = None,
        temperatures: Sequence[float] = (),
        densities: Sequence[ModelDensity] | None = None,
    ) -> None:
        self.options = options
        self.against = against
        self.temperatures = check_temperatures(temperatures)
        self.densities = densities
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
            the most probable token is the target's. With a second system also ``against_model``,
            ``token_kl_divergence`` and ``token_top1_agreement`` (T,); with temperatures
            ``temperatures`` and ``token_log_partitions`` (K, T).

        Raises:
            InputError: there are no targets, a member gave NaN, or a second system does not fit.
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
        estimator = estimator_of(models, self.options)
        pooled: dict[str, list[Tensor]] | None
        pooled = None if self.densities is None else {side: [] for side in SIDES}
        reading, terms = _read(models, estimator, sample, counted, pooled)
        confidence, best = reading.log_probs.max(dim=-1)
        confidence = confidence.exp()
        columns = {"token_confidence": confidence, "token_correct": best == target[counted]}
        shared: dict[str, Any] = {}
        if self.temperatures:
            shared["temperatures"] = self.temperatures
            columns["token_log_partitions"] = log_partitions(reading.log_probs, self.temperatures)
        if self.against is not None:
            shared["against_model"], *compared = self._compare(reading.log_probs, sample, counted)
            columns["token_kl_divergence"], columns["token_top1_agreement"] = compared

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
                **shared,
                **{name: values[..., of_sentence] for name, values in columns.items()},
            }
            attach_uncertainty(
                [hypothesis],
                estimator,
                {name: v[of_sentence].unsqueeze(0) for name, v in reading.measures.items()},
                terms[:, of_sentence].unsqueeze(1),
            )
            # A copy: fairseq-generate turns these into base 2 in place.
            hypothesis["positional_scores"] = hypothesis["token_log_probs"].clone()
            hypothesis["score"] = hypothesis["positional_scores"].mean()
            results.append([hypothesis])
        if self.densities is not None and pooled is not None:
            scored = [hypothesis for (hypothesis,) in results]
            attach_distances(scored, self.densities, *pooled.values())
        return results

    def _compare(
        self, log_probs: Tensor, sample: dict[str, Any], counted: Tensor
    ) -> tuple[ModelInfo, Tensor, Tensor]:
        """Return what the second system is, KL(p_second‖p) (N,) and where both agree (N,)."""
        assert self.against is not None
        models = [model.to(counted.device) for model in self.against.models]
        estimator = estimator_of(models, self.against.options)
        reading, _ = _read(models, estimator, sample, counted)
        divergence, agrees = compare_predictions(log_probs, reading.log_probs)
        impossible = int(divergence.isinf().sum())
        if impossible:
            raise InputError(
                f"KL(p_second‖p) is infinite at {impossible} tokens of a batch: the scored system "
                "rules out pieces that the one it is compared with does not"
            )
        return estimator.info, divergence, agrees


def _read(
    models: Any,
    estimator: Estimator,
    sample: dict[str, Any],
    counted: Tensor,
    pooled: dict[str, list[Tensor]] | None = None,
) -> tuple[TokenReading, Tensor]:
    """Read what models say at the N counted positions (B, T) of a batch, one model at a time.

    Each model's pooled features (B, D) are appended to the sides of ``pooled``, where it is given.

    Returns:
        The reading, and the terms (K, N) of the targets' tokens.
    """
    tokens = sample["target"][counted]  # (N,): positions of all sentences, one after another
    rows = torch.arange(tokens.numel(), device=tokens.device)
    positions = (counted.cumsum(dim=1) - 1)[counted]
    terms: list[Tensor] = []
    believed: list[MemberRows] = []  # of a calibrated model
    unread: list[MemberRows] = []  # what knows its tokens' terms once it was read

    def look_up(output: Tensor | MemberRows) -> None:
        terms.append(estimator.token_terms(output, tokens, rows, positions))

    def read_members() -> Iterator[Tensor | MemberRows]:
        for model in models:
            model.eval()
            given: TokenFeatures | None = None
            # Padded positions are dropped before the maths: whatever they hold is not read.
            if pooled is not None:
                encoded, given = encode_and_decode(model, sample["net_input"], counted)
                pooled["encoder"].append(encoded)
                pooled["decoder"].append(pooled_by_sentence(given.features, counted))
            if isinstance(estimator, CalibratedEstimator):
                given = given or token_features(model, sample["net_input"], counted)
                rows_read = ProjectedRows(given.features, given.weight, given.bias)
                unread.append(rows_read)
                believed.append(rows_read)
                yield rows_read
                continue
            if student_outputs(model) is not None:
                given = given or token_features(model, sample["net_input"], counted)
                for kept in rows_of_student(model, given.features):
                    unread.append(kept)
                    yield kept
                continue
            logits = given.logits() if given else token_logits(model, sample["net_input"], counted)
            output = member_output(model, (logits, None), estimator)  # (N, V)
            look_up(output)
            yield output

    def look_up_unread() -> None:
        while unread:
            look_up(unread.pop(0))

    def prefixes() -> Iterator[Tensor]:
        while True:
            look_up_unread()
            yield _sums_before(terms[-1][0], counted)

    reading = estimator.read(
        read_members(), prefixes=prefixes() if estimator.needs_prefix else None
    )
    look_up_unread()
    if isinstance(estimator, CalibratedEstimator):
        # Nothing is searched here: everything that is said of a row is said of what it reports.
        reading = replace(reading, log_probs=estimator.reported(believed))
    return reading, torch.cat(terms)


def _sums_before(values: Tensor, counted: Tensor) -> Tensor:
    """Return (N,) the sums, in float64, of the values (N,) before each in its own sentence.

    ``counted`` (B, T) says where the N positions are.
    """
    table = torch.zeros(counted.shape, dtype=torch.float64, device=values.device)
    table[counted] = values.double()
    return (table.cumsum(dim=1) - table)[counted]
