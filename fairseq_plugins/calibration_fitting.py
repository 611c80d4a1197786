"""``seqdistill calibrate``: what a model says along the references of a set."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fairseq_plugins.feature_corpora import Corpora, SpeechCorpora, TextCorpora
from fairseq_plugins.features import token_features
from fairseq_plugins.generation.calibration import require_one
from fairseq_plugins.generation.ensemble import estimator_of
from fairseq_plugins.target_cache.corpus import has_cuda
from seqdistill.errors import InputError
from seqdistill.student import StudentHead
from seqdistill.uncertainty.calibrator_fit import CalibrationTokens
from seqdistill.uncertainty.fitted_files import weight_sample


@dataclass(frozen=True)
class CalibrationData:
    """What a calibrator is fitted on.

    Attributes:
        path: the checkpoint.
        data: fairseq's data folder, with the model's dictionaries.
        subset: of it.
        source: language; None: inferred from the folder.
        target: language; likewise.
        config_yaml: of speech, name of the configuration in ``data``; None: the data are text.
        predictive: overrides what a Dirichlet student decodes with, ``base`` or ``mean``.
        max_sentences: drawn at random; None: all.
        seed: of that draw.
        max_tokens: of a batch.
        use_cpu: even where there is a GPU.
    """

    path: str
    data: str
    subset: str = "valid"
    source: str | None = None
    target: str | None = None
    config_yaml: str | None = None
    predictive: str | None = None
    max_sentences: int | None = None
    seed: int = 0
    max_tokens: int = 4096
    use_cpu: bool = False


class CalibrationReading:
    """The reading of a set by one model.

    Args:
        options: what, and by which.

    Raises:
        InputError: data or model are unusable.
    """

    def __init__(self, options: CalibrationData) -> None:
        self.options = options
        self._use_cuda = has_cuda(options.use_cpu)
        corpora = _corpora(options, self._use_cuda)
        self._model, self._pad = require_one(corpora.models), corpora.pad
        self.head = _head(self._model, options.predictive)
        corpus = corpora.corpus(options.data, options.subset)
        self._corpus = corpus.drawn(options.max_sentences, options.seed)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def sentences(self) -> int:
        """How many sentences are read."""
        return len(self._corpus.sentences)

    @property
    def predictive(self) -> str:
        """What the model decodes with."""
        return "softmax" if self.head is None else self.head.predictive

    @property
    def weights(self) -> list[Tensor]:
        """What the model is known by."""
        return weight_sample(self._model.parameters())

    @torch.no_grad()
    def read(self) -> Iterator[int]:
        """Read all sentences; yields how many, batch by batch."""
        for sample in self._corpus.batches(self.options.max_tokens, self._use_cuda):
            counted = sample["target"].ne(self._pad)
            given = token_features(self._model, sample["net_input"], counted)
            sentences = sample["id"].unsqueeze(-1).expand_as(counted)[counted]
            of_batch = (given.features.float(), sample["target"][counted], sentences)
            self._parts.append(tuple(one.cpu() for one in of_batch))  # type: ignore[arg-type]
            yield len(sample["id"])

    def tokens(self) -> CalibrationTokens:
        """Return what was read."""
        if not self._parts:
            raise InputError(f"{self._corpus.name}: no sentence that the model can read")
        features, targets, sentences = (
            torch.cat([part[n] for part in self._parts]) for n in range(3)
        )
        projection = self._model.decoder.output_projection
        bias = projection.bias
        return CalibrationTokens(
            features,
            targets,
            sentences,
            projection.weight.detach().float().cpu(),
            None if bias is None else bias.detach().float().cpu(),
            self.head,
        )


def _head(model: Any, predictive: str | None) -> StudentHead | None:
    """Return how a student's logits are read, None for an ordinary model."""
    head: StudentHead | None = getattr(model, "student_head", None)
    if estimator_of([model]).info.kind != "dirichlet" or head is None:
        if predictive is not None:
            raise InputError("--predictive chooses how a Dirichlet student decodes; leave it away")
        return None
    return head if predictive is None else replace(head, predictive=predictive)


def _corpora(options: CalibrationData, use_cuda: bool) -> Corpora:
    paths = [options.path]
    if options.config_yaml is not None:
        return SpeechCorpora(paths, options.data, options.config_yaml, use_cuda)
    return TextCorpora(
        paths, options.data, options.source, options.target, options.subset, use_cuda
    )
