"""``seqdistill fit-features``: from text or speech to densities of models' features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fairseq_plugins.feature_corpora import Corpora, SpeechCorpora, TextCorpora
from fairseq_plugins.features import encode_and_decode, pooled_by_sentence, require_features
from fairseq_plugins.target_cache.corpus import has_cuda
from seqdistill.errors import InputError
from seqdistill.uncertainty.densities import SIDES, FeatureMoments, GaussianDensity, ModelDensity
from seqdistill.uncertainty.fitted_files import weight_sample


@dataclass(frozen=True)
class FitOptions:
    """What densities are fitted on, and how.

    Attributes:
        paths: the checkpoints; each gets densities of its own.
        data: fairseq's data folder of in-domain text, with the models' dictionaries.
        subset: of it.
        background: a data folder of text of any kind, None for none.
        background_subset: of it.
        source: language; None: inferred from the folder.
        target: language; likewise.
        config_yaml: of speech, name of the configuration in ``data``; None: the data are text.
        max_sentences: of each, drawn at random; None: all.
        seed: of that draw.
        shrinkage: of the covariances, in [0, 1]; None: the oracle approximating shrinkage.
        max_tokens: of a batch.
        use_cpu: even where there is a GPU.

    Raises:
        InputError: a number out of range.
    """

    paths: Sequence[str]
    data: str
    subset: str = "train"
    background: str | None = None
    background_subset: str = "train"
    source: str | None = None
    target: str | None = None
    config_yaml: str | None = None
    max_sentences: int | None = None
    seed: int = 0
    shrinkage: float | None = None
    max_tokens: int = 4096
    use_cpu: bool = False

    def __post_init__(self) -> None:
        if self.max_sentences is not None and self.max_sentences < 2:
            raise InputError(f"expected at least 2 sentences, got {self.max_sentences}")
        if self.shrinkage is not None and not 0.0 <= self.shrinkage <= 1.0:
            raise InputError(f"expected a shrinkage from 0 to 1, got {self.shrinkage:g}")


class Fitting:
    """The fitting of the densities of some models.

    Args:
        options: what on.

    Raises:
        InputError: data or models are unusable.
    """

    def __init__(self, options: FitOptions) -> None:
        self.options = options
        self._use_cuda = has_cuda(options.use_cpu)
        corpora = _corpora(options, self._use_cuda)
        self._models, self._pad = corpora.models, corpora.pad
        require_features(self._models)
        places = {"in_domain": (options.data, options.subset)}
        if options.background is not None:
            places["background"] = (options.background, options.background_subset)
        self._corpora = {
            kind: corpora.corpus(*place).drawn(options.max_sentences, options.seed)
            for kind, place in places.items()
        }
        self._moments = {
            kind: [{side: FeatureMoments() for side in SIDES} for _ in self._models]
            for kind in self._corpora
        }

    @property
    def sentences(self) -> int:
        """How many sentences are read, of both sets."""
        return sum(len(corpus.sentences) for corpus in self._corpora.values())

    def read(self) -> Iterator[int]:
        """Read all sentences; yields how many, batch by batch."""
        for kind, corpus in self._corpora.items():
            for sample in corpus.batches(self.options.max_tokens, self._use_cuda):
                self._add(sample, kind)
                yield len(sample["id"])

    def densities(self) -> list[ModelDensity]:
        """Return the densities of what was read, one of each model.

        Raises:
            InputError: too few or too uniform sentences; the set is named.
        """
        return [
            ModelDensity(
                Path(path).name,
                weight_sample(model.parameters()),
                self._gaussians("in_domain", m),
                self._gaussians("background", m) if "background" in self._corpora else {},
            )
            for m, (path, model) in enumerate(zip(self.options.paths, self._models, strict=True))
        ]

    def _gaussians(self, kind: str, m: int) -> dict[str, GaussianDensity]:
        try:
            return {
                side: moments.density(self.options.shrinkage)
                for side, moments in self._moments[kind][m].items()
            }
        except InputError as error:
            raise InputError(f"{self._corpora[kind].name}: {error}") from error

    @torch.no_grad()
    def _add(self, sample: dict[str, Any], kind: str) -> None:
        counted = sample["target"].ne(self._pad)
        for m, model in enumerate(self._models):
            encoded, given = encode_and_decode(model, sample["net_input"], counted)
            pooled = (encoded, pooled_by_sentence(given.features, counted))
            for side, vectors in zip(SIDES, pooled, strict=True):
                try:
                    self._moments[kind][m][side].add(vectors)
                except InputError as error:
                    raise InputError(f"{self.options.paths[m]}: {error}") from error


def _corpora(options: FitOptions, use_cuda: bool) -> Corpora:
    if options.config_yaml is not None:
        return SpeechCorpora(options.paths, options.data, options.config_yaml, use_cuda)
    return TextCorpora(
        options.paths, options.data, options.source, options.target, options.subset, use_cuda
    )
