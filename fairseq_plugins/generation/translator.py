"""Lines in, hypotheses out: decoding and scoring without fairseq's command line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.data import LanguagePairDataset
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from fairseq_plugins.generation import (
    SecondSystem,
    UncertaintyScorer,
    build_uncertainty_generator,
    densities_for,
    load_second_system,
)
from fairseq_plugins.generation.calibration import with_calibration
from fairseq_plugins.generation.conversion import text_decoder, to_hypotheses
from fairseq_plugins.generation.ensemble import estimator_of
from fairseq_plugins.generation.loading import load_models, require_files
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis, ModelInfo
from seqdistill.uncertainty.estimators import UncertaintyOptions


class Translator:
    """One or several fairseq checkpoints, ready to translate and to score translations.

    Args:
        paths: the checkpoints: an ensemble, one model, or one Dirichlet student.
        data: the folder with ``dict.SOURCE.txt`` and ``dict.TARGET.txt``.
        source_language: of the dictionary's name.
        target_language: likewise.
        sentencepiece_model: segments the lines; None: they come in pieces, with spaces between.
        beam: size of the beam.
        max_len_a: hypotheses have at most ``max_len_a`` · source length + ``max_len_b`` pieces.
        max_len_b: see above.
        predictive: overrides what a Dirichlet student decodes with, ``base`` or ``mean``.
        use_cpu: stay on the CPU where there is a GPU.
        options: measures and combination of the members; None: the defaults, PE.
        target_sentencepiece_model: segments the translations that are scored; None: the one above.
        against: checkpoints of a second system, which reads what is scored as well; none: no
            comparison.
        against_combination: how its members are combined, ``pe`` or ``ep``.
        against_predictive: what it decodes with, where it is a Dirichlet student.
        temperatures: see ``UncertaintyScorer``.
        feature_density: a file of ``seqdistill fit-features``; hypotheses get the distances of
            their features. None: they have none.
        calibration: a file of ``seqdistill calibrate``; the same translations, with calibrated
            probabilities and uncertainties. None: those of the models.

    Raises:
        InputError: a file is missing or damaged, or models or options do not go together.
    """

    def __init__(
        self,
        paths: Sequence[str],
        data: str | Path,
        source_language: str,
        target_language: str,
        *,
        sentencepiece_model: str | Path | None = None,
        beam: int = 5,
        max_len_a: float = 0.0,
        max_len_b: int = 200,
        predictive: str | None = None,
        use_cpu: bool = False,
        options: UncertaintyOptions | None = None,
        target_sentencepiece_model: str | Path | None = None,
        against: Sequence[str] = (),
        against_combination: str = "pe",
        against_predictive: str | None = None,
        temperatures: Sequence[float] = (),
        feature_density: str | Path | None = None,
        calibration: str | Path | None = None,
    ) -> None:
        segmenters = (sentencepiece_model, target_sentencepiece_model)
        require_files(*paths, *against, *(model for model in segmenters if model is not None))
        self._segmenter = segmenter_of(sentencepiece_model)
        self._target_segmenter = (
            self._segmenter
            if target_sentencepiece_model is None
            else segmenter_of(target_sentencepiece_model)
        )
        self._use_cuda = torch.cuda.is_available() and not use_cpu
        loaded = load_models(
            paths,
            data,
            source_language,
            target_language,
            predictive=predictive,
            use_cuda=self._use_cuda,
        )
        self.task, self.models = loaded.task, loaded.models
        options = with_calibration(options, calibration, self.models)
        self.model: ModelInfo = estimator_of(self.models, options).info
        settings = GenerationConfig(beam=beam, max_len_a=max_len_a, max_len_b=max_len_b)
        densities = None
        if feature_density is not None:
            densities = densities_for(str(feature_density), self.models)
        self._generator = build_uncertainty_generator(
            self.task, self.models, settings, options, densities=densities
        )
        second: SecondSystem | None = None
        if against:
            second = load_second_system(
                against,
                self.task,
                combination=against_combination,
                predictive=against_predictive,
            )
        self.against: ModelInfo | None = (
            None if second is None else estimator_of(second.models, second.options).info
        )
        self._scorer = UncertaintyScorer(
            self.task.target_dictionary,
            options=options,
            against=second,
            temperatures=temperatures,
            densities=densities,
        )
        # The text before segmentation is known, so only the target needs a decoder.
        self._target_text = text_decoder(self.task.target_dictionary)
        limits = utils.resolve_max_positions(
            self.task.max_positions(),
            *[
                model.max_positions()
                for model in (*self.models, *(() if second is None else second.models))
            ],
        )
        self._max_source_length, self._max_target_length = int(limits[0]), int(limits[1])

    def translate(
        self, lines: Sequence[str], first_id: int = 0, *, n_best: int = 1
    ) -> list[Hypothesis]:
        """Translate a batch; returns the best hypotheses of each line, in their order.

        Args:
            lines: B sentences, decoded together.
            first_id: number of the first.
            n_best: how many of each line, up to the beam, best first.

        Raises:
            InputError: a line is too long for the models, or one of them gave NaN.
        """
        if not lines:
            return []
        sources = [self._source(line, first_id + n) for n, line in enumerate(lines)]
        dataset = self.task.build_dataset_for_inference(sources, [len(s) for s in sources])
        sample = self._sample(dataset)
        hypos = self._generator.generate(self.models, sample)
        return [
            replace(hypothesis, id=first_id + hypothesis.id, source=lines[hypothesis.id])
            for hypothesis in self._hypotheses(sample, hypos, n_best)
        ]

    def score(
        self,
        lines: Sequence[str],
        translations: Sequence[str],
        references: Sequence[str | None] | None = None,
        first_id: int = 0,
    ) -> list[Hypothesis]:
        """Force-decode given translations; returns a hypothesis for each line, in their order.

        Args:
            lines: B sources, scored together.
            translations: one for each.
            references: what is recorded beside them; None, or None for one: nothing.
            first_id: number of the first.

        Raises:
            InputError: the lists are of different lengths, a line is too long for the models, or
                one of them gave NaN.
        """
        for name, given in (("translations", translations), ("references", references)):
            if given is not None and len(given) != len(lines):
                raise InputError(
                    f"expected as many {name} as sources, got {len(given)} and {len(lines)}"
                )
        if not lines:
            return []
        sources = [self._source(line, first_id + n) for n, line in enumerate(lines)]
        targets = [self._target(line, first_id + n) for n, line in enumerate(translations)]
        dataset = LanguagePairDataset(
            sources,
            [len(tokens) for tokens in sources],
            self.task.source_dictionary,
            targets,
            [len(tokens) for tokens in targets],
            self.task.target_dictionary,
        )
        sample = self._sample(dataset)
        hypos = self._scorer.generate(self.models, sample)
        return [
            replace(
                hypothesis,
                id=first_id + hypothesis.id,
                source=lines[hypothesis.id],
                reference=None if references is None else references[hypothesis.id],
                # As it was given: its pieces may have lost what the vocabulary does not have.
                text=translations[hypothesis.id],
            )
            for hypothesis in self._hypotheses(sample, hypos)
        ]

    def _sample(self, dataset: Any) -> Any:
        sample = dataset.collater([dataset[n] for n in range(len(dataset))])
        return utils.move_to_cuda(sample) if self._use_cuda else sample

    def _hypotheses(self, sample: Any, hypos: Any, n_best: int = 1) -> list[Hypothesis]:
        found = to_hypotheses(
            sample,
            hypos,
            sample["id"].tolist(),  # fairseq sorts a batch by length
            dictionary=self.task.target_dictionary,
            target_text=self._target_text,
            n_best=n_best,
        )
        return sorted(found, key=lambda hypothesis: (hypothesis.id, hypothesis.rank))

    def _source(self, line: str, number: int) -> Tensor:
        return _encode(
            line, number, self._segmenter, self.task.source_dictionary, self._max_source_length
        )

    def _target(self, line: str, number: int) -> Tensor:
        return _encode(
            line, number, self._target_segmenter, self.task.target_dictionary,
            self._max_target_length,
        )  # fmt: skip


def segmenter_of(model: str | Path | None) -> Any:
    """Return a sentencepiece model; None where there is no file."""
    if model is None:
        return None
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def _encode(line: str, number: int, segmenter: Any, dictionary: Any, limit: int) -> Tensor:
    """Return the indices of a line, end of sentence included."""
    pieces = line.split() if segmenter is None else segmenter.encode(line, out_type=str)
    tokens: Tensor = dictionary.encode_line(" ".join(pieces), add_if_not_exist=False).long()
    if len(tokens) > limit:
        raise InputError(
            f"line {number + 1} has {len(tokens)} pieces, and the models read at most {limit}; "
            "split it into sentences"
        )
    return tokens
