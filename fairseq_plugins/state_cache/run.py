"""``seqdistill cache-states``: from options to a finished store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_plugins.layer_states import depths_of
from fairseq_plugins.state_cache.making import StateMaker, StateShardWork
from fairseq_plugins.target_cache.corpus import CorpusPlace, data_print
from fairseq_plugins.target_cache.options import Progress, StoreOptions
from fairseq_plugins.teachers import expand_paths, load_translation_member
from seqdistill.errors import InputError
from seqdistill.files import locked
from seqdistill.records import describe_environment
from seqdistill.targets.states import Compression, StatePlan, StateWriter, clear, read_layers
from seqdistill.targets.store import TeacherPrint
from seqdistill.workers import do_units

DEFAULT_LAYERS = "encoder.last,decoder.last"
_MAX_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class StateOptions(StoreOptions):
    """What is to be stored, and where; ``max_tokens`` None is 4,096.

    Attributes:
        paths: the teachers, one or more.
        layers: names of layers.
        width: numbers of a state.
        positions: of a sentence and side; None: all.
        choice: how they are chosen.
        fit_sentences: that the maps are fitted on.
        seed: of their choice.
    """

    paths: str
    layers: str = DEFAULT_LAYERS
    width: int = 64
    positions: int | None = None
    choice: str = "rare"
    fit_sentences: int = 1000
    seed: int = 1


class StateCaching:
    """The making of one store; :meth:`survey` looks, :meth:`run` does it.

    Args:
        options: what and where.

    Raises:
        InputError: options, data or teachers are unusable.
    """

    def __init__(self, options: StateOptions) -> None:
        self.options = options
        self.folder = Path(options.output)
        corpus = CorpusPlace.find(options.data, options.source, options.target, options.subset)
        task, dataset = corpus.load()
        paths = expand_paths(options.paths, "--path")
        shapes = []
        for path in paths:
            model = load_translation_member(path, task.source_dictionary, task.target_dictionary)
            depths = depths_of(model, path)
            widths = {side: getattr(model, side).layers[0].embed_dim for side in depths}
            shapes.append((depths, widths))
        if any(shape != shapes[0] for shape in shapes):
            raise InputError(
                "the teachers have different sizes; store their states apart, one --path each"
            )
        self.plan = StatePlan(
            tuple(TeacherPrint.of(path) for path in paths),
            *shapes[0],
            read_layers(options.layers, shapes[0][0]),
            data_print(dataset),
            options.subset,
            width=options.width,
            positions=options.positions,
            choice=options.choice,
            fit_sentences=options.fit_sentences,
            seed=options.seed,
            shard_sentences=options.shard_sentences,
            environment=describe_environment(options.command),
        )
        max_tokens = options.max_tokens or _MAX_TOKENS
        self._maker = StateMaker(self.plan, corpus, tuple(paths), max_tokens, options.use_cpu)

    def survey(self) -> dict[str, Any]:
        """Return what would be done, as JSON keeps it; nothing is written."""
        plan = self.plan
        states = 0
        for side, printed in (("encoder", plan.data.source), ("decoder", plan.data.target)):
            count = printed.tokens
            if plan.positions is not None:
                count = min(count, plan.positions * plan.data.sentences)
            states += count * sum(channel.split(".")[1] == side for channel in plan.channels)
        return {
            "output": str(self.folder),
            "subset": plan.subset,
            "sentences": plan.data.sentences,
            "layers": list(plan.layers),
            "teachers": len(plan.teachers),
            "states_at_most": states,
            "bytes_at_most": 2 * plan.width * states,
            "shards": plan.shards,
            "workers": self.options.workers,
        }

    def run(self, progress: Progress) -> dict[str, Any]:
        """Make the store, or go on with it; returns its manifest.

        Args:
            progress: shows how far it is.

        Raises:
            InputError: see :class:`~seqdistill.targets.states.StateWriter`.
        """
        with locked(self.folder):
            if self.options.overwrite:
                clear(self.folder)
            writer = StateWriter(self.folder, self.plan)
            maps = writer.compressions()
            if maps is None:
                maps = self._fit(progress)
                writer.write_compressions(maps)
            missing = writer.missing()
            sentences = self.plan.data.sentences
            left = sum(len(self.plan.sentences_of(index)) for index in missing)
            work = StateShardWork(self.folder, self._maker, maps)
            steps = do_units(work, missing, self.options.workers)
            progress("states", sentences - left, sentences, steps)
            return writer.finish()

    def _fit(self, progress: Progress) -> dict[str, Compression]:
        found: dict[str, Compression] = {}

        def steps() -> Any:
            for step in self._maker.set_up().fit():
                if isinstance(step, int):
                    yield step
                else:
                    found.update(step)

        progress("maps", 0, min(self.plan.fit_sentences, self.plan.data.sentences), steps())
        return found
