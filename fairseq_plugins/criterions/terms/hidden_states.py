"""``--state-weight``: a student's hidden states against those of a store; no teacher is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional, Self

import torch
from torch import Tensor, nn

from fairseq_plugins.criterions.batch import Batch, Distilled
from fairseq_plugins.criterions.terms.term import LossTerm, Sums, option_weight
from fairseq_plugins.layer_states import LayerStates, depths_of, states_of_tokens
from seqdistill.errors import InputError
from seqdistill.losses.hidden_states import hidden_state_loss
from seqdistill.targets.states import StateStore, matching_layer, parse_layer


@dataclass
class StateOptions:
    """Options of the term."""

    state_store: Optional[str] = field(  # noqa: UP045 (fairseq reads the annotation)
        default=None,
        metadata={
            "help": "store that seqdistill cache-states made of the training set: teachers' hidden "
            "states that the student's are to meet"
        },
    )
    state_weight: float = field(
        default=0.0,
        metadata={"help": "weight of the distance from the stored states, added to the loss"},
    )


class HiddenStates(LossTerm):
    """A map for each of the store's channels, from a layer of the student as far through it.

    Where the student is as wide as the teacher, a map begins as the compression of that teacher's
    states, so a student that starts as the teacher starts with what is stored. Hooks note the
    states in the forward passes that training makes anyway.

    Args:
        weight: of the term, above 0.
        path: of the store.
        student: the model in training.
        pads: the padding entries of source and target dictionary.

    Raises:
        InputError: no finished store, or a student whose layers do not give their states.
    """

    name = "state"

    def __init__(self, weight: float, path: str, student: Any, pads: tuple[int, int]) -> None:
        super().__init__(weight)
        self._store = StateStore.open(path)
        plan = self._store.plan
        self._pads = pads
        depths = depths_of(student, "the student")
        self._layer_of: dict[str, str] = {}
        maps: dict[str, nn.Linear] = {}
        for channel in plan.channels:
            side, number = parse_layer(channel.partition(".")[2])
            own = matching_layer(number, plan.depths[side], depths[side])
            self._layer_of[channel] = f"{side}.{own}"
            D = getattr(student, side).layers[own - 1].embed_dim
            maps[_key(channel)] = _map(D, self._store.compressions[channel])
        self.maps = nn.ModuleDict(maps)
        self._watcher = LayerStates(student, sorted(set(self._layer_of.values())))
        self._noted: dict[str, Tensor] = {}

    @classmethod
    def from_options(cls, cfg: Any, task: Any) -> Self | None:
        """See :meth:`LossTerm.from_options`; there is none where nothing is trained."""
        weight, path = option_weight(cfg, "state_weight"), cfg.state_store
        if weight > 0 and not path:
            raise InputError(
                "--state-weight needs stored states: make a store with seqdistill cache-states and "
                "give it as --state-store"
            )
        if path and not weight:
            raise InputError(
                "--state-store is given and --state-weight is 0; give a weight above 0"
            )
        if not path or task.student is None:
            return None
        source = getattr(task, "source_dictionary", None)
        if source is None:
            raise InputError("--state-store: hidden states are stored of text, this is speech")
        given = task.cfg
        if getattr(given, "source_dropout", 0) or getattr(given, "source_replacement", 0):
            raise InputError(
                "--state-store has the states of sources without noise; leave --source-dropout and "
                "--source-replacement away"
            )
        return cls(weight, path, task.student, (source.pad(), task.target_dictionary.pad()))

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """Note the student's states of the forward pass inside."""
        with self._watcher.watching() as self._noted:
            yield

    def added(self, batch: Batch, distilled: Distilled) -> tuple[Tensor, Sums]:
        """Return the distance of the batch's states from the stored ones."""
        distance = self.distance(batch.sample, batch.by_sentence)
        return distance, {"state_loss": distance.detach()}

    def distance(self, sample: dict[str, Any], by_sentence: bool) -> Tensor:
        """Return what the batch adds, before its weight.

        A sum over the stored states of the batch, scaled by a constant of the store such that,
        divided by the batch's target tokens (or sentences), it is near the mean over states; the
        mean over channels. So micro-batches add up as those of the distillation do.

        Args:
            sample: fairseq's batch.
            by_sentence: whether losses are divided by sentences.

        Raises:
            InputError: a sentence is not the one that was stored.
        """
        source, target = sample["net_input"]["src_tokens"], sample["target"]
        masks = {"encoder": source.ne(self._pads[0]), "decoder": target.ne(self._pads[1])}
        stored = self._store.batch(
            sample["id"].tolist(), _rows(source, masks["encoder"]), _rows(target, masks["decoder"])
        ).to(target.device)
        data = self._store.plan.data
        of_corpus = data.sentences if by_sentence else data.target.tokens
        total: Any = 0.0
        for channel, states in stored.states.items():
            layer = self._layer_of[channel]
            side = layer.partition(".")[0]
            own = states_of_tokens(self._noted[layer], masks[side])[stored.rows[side]]
            module: Any = self.maps[_key(channel)]
            loss, _ = hidden_state_loss(module(own.to(module.weight.dtype)), states)
            total = total + loss * (of_corpus / self._store.counts[side])
        self._noted = {}
        return total / len(stored.states)  # type: ignore[no-any-return]


def _rows(tokens: Tensor, mask: Tensor) -> list[Any]:
    return [row[kept].cpu().numpy() for row, kept in zip(tokens, mask, strict=True)]


def _key(channel: str) -> str:
    """Return a name that a module may have."""
    return channel.replace(".", "_")


def _map(D: int, compression: Any) -> nn.Linear:
    width, teachers = compression.directions.shape
    made = nn.Linear(D, width)
    if teachers == D:
        with torch.no_grad():
            made.weight.copy_(compression.directions / compression.scale)
            made.bias.copy_(-(compression.mean @ compression.directions.T) / compression.scale)
    return made
