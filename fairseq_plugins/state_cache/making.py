"""Teachers over sentences: their states, to fit the maps and to fill the shards of a store."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_plugins.layer_states import LayerStates, states_of_tokens
from fairseq_plugins.target_cache.corpus import (
    CorpusPlace,
    collate,
    fits,
    make_batches,
    sentence_ids,
    take_gpu,
)
from fairseq_plugins.teachers import load_translation_member
from seqdistill.targets.states import (
    Compression,
    StateMoments,
    StatePlan,
    StateShard,
    choose_places,
)
from seqdistill.targets.store import sentence_checksum
from seqdistill.targets.store.files import Array


@dataclass(frozen=True)
class StateMaker:
    """What runs teachers; any process can set it up.

    Attributes:
        plan: of the store.
        corpus: what it is made of.
        paths: of the teachers.
        max_tokens: of a batch.
        use_cpu: even where there is a GPU.
    """

    plan: StatePlan
    corpus: CorpusPlace
    paths: tuple[str, ...]
    max_tokens: int
    use_cpu: bool

    def set_up(self) -> "_Running":
        """Load corpus and teachers."""
        return _Running(self)


class _Running:
    def __init__(self, maker: StateMaker) -> None:
        self.plan = maker.plan
        self._max_tokens = maker.max_tokens
        task, self.dataset = maker.corpus.load()
        self._pad = task.source_dictionary.pad(), task.target_dictionary.pad()
        self._use_cuda = take_gpu(maker.use_cpu)
        self._models: list[Any] = []
        self._watchers: list[LayerStates] = []
        for path in maker.paths:
            model = load_translation_member(path, task.source_dictionary, task.target_dictionary)
            model.requires_grad_(False)
            self._models.append(model.eval().cuda() if self._use_cuda else model.eval())
            self._watchers.append(LayerStates(model, self.plan.layers))
        self._limits = [model.max_positions() for model in self._models]

    def readable(self, sentences: Sequence[int]) -> list[int]:
        """Return the sentences that all teachers can read."""
        sizes = self.dataset.src_sizes, self.dataset.tgt_sizes
        return [s for s in sentences if fits(sizes[0][s], sizes[1][s], self._limits)]

    @torch.no_grad()
    def states(
        self, sentences: Sequence[int]
    ) -> Iterator[tuple[list[int], dict[str, Tensor], dict[str, list[int]]]]:
        """Yield batches: sentences, states (n, D) of all their tokens by channel, lengths by side.

        The teachers read what they read in training: the references before each token.
        """
        for batch in make_batches(self.dataset, sentences, self._max_tokens):
            sample = collate(self.dataset, batch, self._use_cuda)
            masks = {
                "encoder": sample["net_input"]["src_tokens"].ne(self._pad[0]),
                "decoder": sample["target"].ne(self._pad[1]),
            }
            found = {}
            for t, (model, watcher) in enumerate(zip(self._models, self._watchers, strict=True)):
                with watcher.watching() as noted:
                    model(**sample["net_input"], features_only=True)
                for layer, states in noted.items():
                    mask = masks[layer.partition(".")[0]]
                    found[f"{t}.{layer}"] = states_of_tokens(states, mask)
            lengths = {side: mask.sum(dim=1).tolist() for side, mask in masks.items()}
            yield sample["id"].tolist(), found, lengths

    def fit(self) -> Iterator[int | dict[str, Compression]]:
        """Fit the maps: yields how many sentences are done, at last the maps."""
        plan = self.plan
        generator = np.random.default_rng(plan.seed)
        count = min(plan.fit_sentences, plan.data.sentences)
        drawn = generator.choice(plan.data.sentences, count, replace=False)
        moments: dict[str, StateMoments] = {}
        for sentences, states, _ in self.states(self.readable(sorted(drawn.tolist()))):
            for channel, rows in states.items():
                moments.setdefault(channel, StateMoments(rows.shape[1])).add(rows)
            yield len(sentences)
        yield {channel: moments[channel].compression(plan.width) for channel in plan.channels}

    def frequencies(self) -> dict[str, Array]:
        """Return how often the corpus has each piece, of each side; nothing if nobody asks."""
        if self.plan.choice != "rare" or self.plan.positions is None:
            return {}
        counts: dict[str, Array] = {}
        for side, data in (("encoder", self.dataset.src), ("decoder", self.dataset.tgt)):
            size = len(self.dataset.src_dict if side == "encoder" else self.dataset.tgt_dict)
            counts[side] = np.zeros(size, np.int64)
            for index in range(len(data)):
                np.add.at(counts[side], data[index].numpy(), 1)
        return counts


@dataclass(frozen=True)
class StateShardWork:
    """Shards of a store; the maps have been fitted.

    Attributes:
        folder: of the store.
        maker: runs the teachers.
        maps: of the channels.
    """

    folder: Path
    maker: StateMaker
    maps: dict[str, Compression]

    def prepare(self) -> Callable[[int], Iterator[int]]:
        """Load corpus and teachers; return what makes a shard and tells how far it is."""
        running, plan = self.maker.set_up(), self.maker.plan
        frequencies = running.frequencies()
        none = np.zeros(0, np.int64)

        def make_shard(index: int) -> Iterator[int]:
            sentences = plan.sentences_of(index)
            ids = {s: sentence_ids(running.dataset, s) for s in sentences}
            shard = StateShard(plan, index, [sentence_checksum(*ids[s]) for s in sentences])
            readable = running.readable(sentences)
            for batch, states, lengths in running.states(readable):
                begins = dict.fromkeys(lengths, 0)
                for i, s in enumerate(batch):
                    for side, own in zip(("encoder", "decoder"), ids[s], strict=True):
                        if side not in plan.sides:
                            continue
                        known = frequencies.get(side, none)
                        places = choose_places(own, plan.positions, plan.choice, known)
                        shard.add_places(side, s, places)
                        rows = torch.from_numpy(begins[side] + places)
                        for channel, found in states.items():
                            if channel.split(".")[1] == side:
                                kept = found[rows.to(found.device)].cpu()
                                shard.add(channel, s, self.maps[channel].encode(kept))
                        begins[side] += lengths[side][i]
                yield len(batch)
            yield len(sentences) - len(readable)
            shard.write(self.folder)

        return make_shard
