"""``seqdistill cache-targets``: from options to a finished store."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fairseq_plugins.target_cache.corpus import CorpusPlace, data_print, fitting_tokens, has_cuda
from fairseq_plugins.target_cache.decoding import (
    DATA,
    DECODING,
    DecodingWork,
    Search,
    begin_decoding,
    chunk_sentences,
    write_data,
)
from fairseq_plugins.target_cache.making import ShardWork, TeacherPlace
from fairseq_plugins.target_cache.options import Progress, StoreOptions
from fairseq_plugins.teachers import find_members
from seqdistill.files import locked
from seqdistill.records import describe_environment
from seqdistill.targets.store import (
    DataPrint,
    DictionaryPrint,
    Fingerprint,
    StorePlan,
    StoreSettings,
    StoreWriter,
    TeacherPrint,
)
from seqdistill.targets.store.settings import LARGEST_16_BIT_VOCABULARY
from seqdistill.targets.store.writer import clear, refuse_foreign
from seqdistill.workers import do_units

TARGETS = ("references", "ensemble", "both")
DEFAULT_TOP_K = 128


@dataclass(frozen=True, kw_only=True)
class CacheOptions(StoreOptions):
    """What is to be stored, and where.

    ``max_tokens`` None is what makes a (tokens, V) array 16 MB large (256 MB on a GPU), and 4,096
    at most.

    Attributes:
        ensemble_paths: the teachers, as ``--ensemble-paths`` has them.
        targets: ``references``, ``ensemble`` (its own outputs) or ``both``.
        search: how outputs are decoded.
        top_k: pieces a token; None with no ``tail_bound`` is 128, or V if that is less.
        tail_bound: adaptive k, see :class:`~seqdistill.targets.store.StoreSettings`.
        max_k: of an adaptive k.
        store_dtype: of the stored probabilities.
        temperature: of the teachers.
        for_end2: keep what EnD² needs.
        exact_precision: keep the precision of ``concentration="exact"``.
        ensemble_dtype: of the teachers' forward pass.
    """

    ensemble_paths: str
    targets: str = "references"
    search: Search = field(default_factory=Search)
    top_k: int | None = None
    tail_bound: float | None = None
    max_k: int | None = None
    store_dtype: str = "float16"
    temperature: float = 1.0
    for_end2: bool = False
    exact_precision: bool = False
    ensemble_dtype: str = "float32"


class Caching:
    """The making of one store; :meth:`survey` looks, :meth:`run` does it.

    Args:
        options: what and where.

    Raises:
        InputError: options, data or teachers are unusable.
    """

    def __init__(self, options: CacheOptions) -> None:
        self.options = options
        self.folder = Path(options.output)
        refuse_foreign(self.folder)
        self.corpus = CorpusPlace.find(options.data, options.source, options.target, options.subset)
        paths = tuple(find_members(options.ensemble_paths, least=1))
        self.teachers = TeacherPlace(paths, options.ensemble_dtype, options.use_cpu)
        self._teacher_prints = tuple(TeacherPrint.of(path) for path in paths)
        task, dataset = self.corpus.load()
        self.source_symbols = list(task.source_dictionary.symbols)
        self.target_symbols = list(task.target_dictionary.symbols)
        self.settings = self._settings()
        options.search.check()
        self.input = data_print(dataset, without_target=options.targets == "ensemble")
        fitting = fitting_tokens(len(self.target_symbols), has_cuda(options.use_cpu))
        self.max_tokens = options.max_tokens or fitting

    def survey(self) -> dict[str, Any]:
        """Return what would be done, as JSON keeps it; nothing is written."""
        settings, options = self.settings, self.options
        data = self.input
        copies = 0 if options.targets == "references" else options.search.outputs
        copies += options.targets != "ensemble"
        # The outputs' tokens are not known before they are decoded; as many as the references', or
        # as the sources' where there are none.
        references = data.target.tokens or data.source.tokens
        tokens, sentences = copies * references, copies * data.sentences
        sums = 8 * (3 if settings.for_end2 else 2) * settings.vocabulary_size
        per_token = settings.widest * settings.bytes_per_entry + 4 * len(settings.columns)
        return {
            "output": str(self.folder),
            "data": self.corpus.folder,
            "languages": [self.corpus.source, self.corpus.target],
            "subset": self.corpus.subset,
            "targets": options.targets,
            "teachers": list(self.teachers.paths),
            "vocabulary": settings.vocabulary_size,
            "sentences": sentences,
            "tokens": tokens,
            "shards": settings.shards(sentences),
            "bytes_at_most": tokens * per_token + settings.shards(sentences) * sums,
            "wide_pieces": settings.vocabulary_size > LARGEST_16_BIT_VOCABULARY,
            "max_tokens": self.max_tokens,
            "workers": options.workers,
        }

    def run(self, progress: Progress) -> dict[str, Any]:
        """Make the store, or go on with it.

        Args:
            progress: shows how far it is.

        Returns:
            The store's manifest.

        Raises:
            InputError: see :class:`~seqdistill.targets.store.StoreWriter`.
        """
        with locked(self.folder):
            if self.options.overwrite:
                clear(self.folder)
            corpus, data = self.corpus, self.input
            if self.options.targets != "references":
                self._decode(progress)
                corpus = replace(corpus, folder=str(self.folder / DATA))
                data = data_print(corpus.load()[1])
            return self._store(corpus, data, progress)

    def _store(self, corpus: CorpusPlace, data: DataPrint, progress: Progress) -> dict[str, Any]:
        fingerprint = Fingerprint(
            self._teacher_prints,
            DictionaryPrint.of(self.source_symbols),
            DictionaryPrint.of(self.target_symbols),
            data,
        )
        plan = StorePlan(
            self.settings,
            fingerprint,
            self.target_symbols,
            describe_environment(self.options.command),
        )
        writer = StoreWriter(self.folder, plan)
        # The plan as it was begun: shards carry its digest.
        work = ShardWork(self.folder, writer.plan, corpus, self.teachers, self.max_tokens)
        missing = writer.missing()
        left = sum(len(self.settings.sentences_of(i, plan.sentences)) for i in missing)
        try:
            steps = do_units(work, missing, self.options.workers)
            progress("targets", plan.sentences - left, plan.sentences, steps)
            return writer.finish()
        finally:
            writer.tidy()

    def _decode(self, progress: Progress) -> None:
        search, count = self.options.search, self.input.sentences
        plan = {
            "teachers": [asdict(teacher) for teacher in self._teacher_prints],
            "teachers dtype": self.options.ensemble_dtype,
            "data": asdict(self.input),
            "search": search.described(),
            "with references": self.options.targets == "both",
        }
        chunks = begin_decoding(self.folder, plan, count)
        work = DecodingWork(
            self.folder / DECODING, self.corpus, self.teachers, search, self.max_tokens
        )
        left = sum(len(chunk_sentences(chunk, count)) for chunk in chunks)
        progress("outputs", count - left, count, do_units(work, chunks, self.options.workers))
        if not (self.folder / DATA).is_dir():
            _, dataset = self.corpus.load()
            both = self.options.targets == "both"
            write_data(
                self.folder,
                self.corpus,
                dataset,
                with_references=both,
                outputs=search.outputs,
            )

    def _settings(self) -> StoreSettings:
        options = self.options
        V = len(self.target_symbols)
        top_k = options.top_k
        if top_k is None and options.tail_bound is None:
            top_k = min(DEFAULT_TOP_K, V)
        origin: dict[str, Any] = {
            "subset": options.subset,
            "targets": options.targets,
            "ensemble_dtype": options.ensemble_dtype,
        }
        if options.targets != "references":
            origin |= options.search.described()
        return StoreSettings(
            vocabulary_size=V,
            members=len(self.teachers.paths),
            top_k=top_k,
            tail_bound=options.tail_bound,
            max_k=options.max_k,
            dtype=options.store_dtype,
            temperature=options.temperature,
            for_end2=options.for_end2,
            exact_precision=options.exact_precision,
            shard_sentences=options.shard_sentences,
            origin=origin,
        )
