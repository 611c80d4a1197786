"""Teachers over the sentences of a shard: what a worker of the store does."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_plugins.target_cache.corpus import (
    CorpusPlace,
    collate,
    fits,
    make_batches,
    sentence_ids,
    take_gpu,
)
from fairseq_plugins.teachers import TeacherEnsemble, translation_loader
from seqdistill.errors import InputError
from seqdistill.targets.store import (
    ShardBuilder,
    StorePlan,
    sentence_checksum,
    sparsify,
    write_shard,
)


@dataclass(frozen=True)
class TeacherPlace:
    """The checkpoints of an ensemble and how they are run.

    Attributes:
        paths: of the members.
        dtype: of their forward pass.
        use_cpu: even where there is a GPU.
    """

    paths: tuple[str, ...]
    dtype: str
    use_cpu: bool


@dataclass(frozen=True)
class ShardWork:
    """Shards of a store, with the corpus's references (which may be outputs) as targets.

    Attributes:
        folder: of the store.
        plan: of the store.
        corpus: what it is made of.
        teachers: who make it.
        max_tokens: of a batch.
    """

    folder: Path
    plan: StorePlan
    corpus: CorpusPlace
    teachers: TeacherPlace
    max_tokens: int

    def prepare(self) -> Callable[[int], Iterator[int]]:
        """Load corpus and teachers; return what makes a shard and tells how far it is."""
        task, dataset = self.corpus.load()
        settings = self.plan.settings
        ensemble = TeacherEnsemble(
            self.teachers.paths,
            translation_loader(task.source_dictionary, task.target_dictionary),
            self.teachers.dtype,
        )
        models: list[Any] = list(ensemble.models)
        limits = [model.max_positions() for model in models]
        use_cuda = take_gpu(self.teachers.use_cpu)
        pad = task.target_dictionary.pad()

        def make_shard(index: int) -> Iterator[int]:
            sentences = settings.sentences_of(index, self.plan.sentences)
            checksums = [sentence_checksum(*sentence_ids(dataset, s)) for s in sentences]
            builder = ShardBuilder(self.plan, index, checksums)
            readable = [
                s for s in sentences if fits(dataset.src_sizes[s], dataset.tgt_sizes[s], limits)
            ]
            for batch in make_batches(dataset, readable, self.max_tokens):
                sample = collate(dataset, batch, use_cuda)
                token_mask = sample["target"].ne(pad)
                try:
                    statistics = ensemble.statistics(
                        sample["net_input"], token_mask, settings.temperature
                    )
                    rows = sparsify(statistics, settings)
                except InputError as error:
                    raise InputError(f"sentences {batch[0]} … {batch[-1]}: {error}") from error
                builder.add(sample["id"].tolist(), token_mask.sum(dim=1).tolist(), rows)
                yield len(batch)
            yield len(sentences) - len(readable)
            write_shard(self.folder, builder)

        return make_shard
