"""``seqdistill gradients``: students and teachers over binarised text, to gradients by rank."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq_plugins.features import token_logits
from fairseq_plugins.generation.loading import load_models
from fairseq_plugins.target_cache.corpus import (
    CorpusPlace,
    collate,
    fits,
    fitting_tokens,
    has_cuda,
    make_batches,
)
from fairseq_plugins.teachers import TeacherEnsemble, find_members, translation_loader
from seqdistill.assessment.gradients import PER_DECADE, GradientProfile, GradientProfiler
from seqdistill.errors import InputError
from seqdistill.kernels import DistillationLoss

#: Logits of 0 everywhere: a student that knows nothing.
UNIFORM = "uniform"


@dataclass(frozen=True)
class GradientOptions:
    """What gradients are taken of, and where.

    Attributes:
        data: fairseq's data folder.
        ensemble_paths: the teachers, as ``--ensemble-paths`` has them.
        students: name → checkpoint at whose parameters gradients are taken, beside ``uniform``.
        losses: by the names that results have.
        subset: of the data.
        source: language; None: inferred from the folder.
        target: language; likewise.
        per_decade: bins a factor of ten in rank.
        max_sentences: drawn at random; None: all.
        seed: of that draw.
        use_cpu: even where there is a GPU.

    Raises:
        InputError: a number out of range, or a student of a reserved name.
    """

    data: str
    ensemble_paths: str
    students: Mapping[str, str]
    losses: Mapping[str, DistillationLoss]
    subset: str = "valid"
    source: str | None = None
    target: str | None = None
    per_decade: int = PER_DECADE
    max_sentences: int | None = None
    seed: int = 0
    use_cpu: bool = False

    def __post_init__(self) -> None:
        if self.max_sentences is not None and self.max_sentences < 1:
            raise InputError(f"expected at least 1 sentence, got {self.max_sentences}")
        if UNIFORM in self.students:
            raise InputError(f"a student cannot be called {UNIFORM!r}: that is what knows nothing")


class GradientReading:
    """The reading of gradients off a text, teacher-forced.

    Models are in evaluation mode; teachers as they are (no temperature).

    Args:
        options: what, and where.

    Raises:
        InputError: data or models are unusable, or do not go together.
    """

    def __init__(self, options: GradientOptions) -> None:
        self.options = options
        place = CorpusPlace.find(options.data, options.source, options.target, options.subset)
        task, self._dataset = place.load()
        if self._dataset.tgt is None:
            raise InputError(
                f"{place.folder} ({place.subset}): no target side; preprocess it with both "
                "languages"
            )
        self._use_cuda = has_cuda(options.use_cpu)
        dictionary = task.target_dictionary
        self._V, self._pad = len(dictionary), dictionary.pad()
        self._profiler = GradientProfiler(self._V, options.losses, options.per_decade)
        members = find_members(options.ensemble_paths)
        self._ensemble = TeacherEnsemble(
            members, translation_loader(task.source_dictionary, dictionary)
        )
        self._students: dict[str, Any] = {}
        for name, path in options.students.items():
            loaded = load_models(
                [path], options.data, place.source, place.target, use_cuda=self._use_cuda
            )
            (self._students[name],) = loaded.models
            _check_offset(path, self._students[name], options.losses)
        self.sentences = self._chosen()
        self._origin = {
            "data": f"{Path(place.folder).name}, {place.subset}",
            "teachers": members,
            "students": dict(options.students),
        }

    def read(self) -> Iterator[int]:
        """Read all sentences; yields how many, batch by batch.

        A batch is as large as the one that a vocabulary-sized array fits into memory for; nothing
        of that size outlives it.
        """
        max_tokens = fitting_tokens(self._V, self._use_cuda)
        for batch in make_batches(self._dataset, self.sentences, max_tokens):
            self._add(collate(self._dataset, batch, self._use_cuda))
            yield len(batch)

    def profile(self, *, resamples: int, seed: int) -> GradientProfile:
        """Return what was read; see :meth:`GradientProfiler.profile`."""
        return self._profiler.profile(resamples=resamples, seed=seed, origin=self._origin)

    @torch.no_grad()
    def _add(self, sample: dict[str, Any]) -> None:
        counted = sample["target"].ne(self._pad)
        statistics = self._ensemble.statistics(sample["net_input"], counted)
        logits = {UNIFORM: torch.zeros_like(statistics.mean_probs)}
        for name, model in self._students.items():
            logits[name] = token_logits(model, sample["net_input"], counted).float()
        sentences = sample["id"].to(counted.device)[:, None].expand_as(counted)[counted]
        self._profiler.add(logits, statistics, sentences)

    def _chosen(self) -> list[int]:
        models: list[Any] = [*self._ensemble.models, *self._students.values()]
        limits = [model.max_positions() for model in models]
        data = self._dataset
        readable = [
            s for s in range(len(data)) if fits(data.src_sizes[s], data.tgt_sizes[s], limits)
        ]
        if not readable:
            raise InputError(f"{self.options.data}: no sentence that all models can read")
        wanted = self.options.max_sentences
        if wanted is None or wanted >= len(readable):
            return readable
        drawn = np.random.default_rng(self.options.seed).permutation(len(readable))[:wanted]
        return [readable[n] for n in sorted(drawn)]


def _check_offset(path: str, model: Any, losses: Mapping[str, DistillationLoss]) -> None:
    """Refuse losses that read a Dirichlet student's logits in another way than it does."""
    head = getattr(model, "student_head", None)
    if head is None or head.offset is None:
        return
    for name, loss in losses.items():
        if loss.kind != "mean_kl" and loss.offset != head.offset:
            raise InputError(
                f"{path}: its concentrations are e^z + {head.offset:g}, those of {name} "
                f"e^z + {loss.offset:g}; give --offset {head.offset:g}"
            )
