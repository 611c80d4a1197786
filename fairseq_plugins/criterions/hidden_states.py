"""``--state-weight``: a student's hidden states against those of a store; no teacher is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_plugins.layer_states import LayerStates, depths_of, states_of_tokens
from seqdistill.errors import InputError
from seqdistill.losses.hidden_states import hidden_state_loss
from seqdistill.targets.states import StateStore, matching_layer, parse_layer


class HiddenStates(nn.Module):
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

    def __init__(self, weight: float, path: str, student: Any, pads: tuple[int, int]) -> None:
        super().__init__()
        self.weight = weight
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

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the student's states of the forward pass inside."""
        with self._watcher.watching() as self._noted:
            yield

    def loss(self, sample: dict[str, Any], by_sentence: bool) -> Tensor:
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


def states_term(weight: float, path: str | None, task: Any) -> HiddenStates | None:
    """Return the term of a training; None if none was asked for, or nothing is trained.

    Args:
        weight: ``--state-weight``.
        path: ``--state-store``.
        task: of the training; it has the student.

    Raises:
        InputError: one of the options without the other, or what :class:`HiddenStates` refuses.
    """
    if not weight >= 0:
        raise InputError(f"--state-weight: expected 0 or more, got {weight}")
    if weight > 0 and not path:
        raise InputError(
            "--state-weight needs stored states: make a store with seqdistill cache-states and "
            "give it as --state-store"
        )
    if path and not weight:
        raise InputError("--state-store is given and --state-weight is 0; give a weight above 0")
    if not path or task.student is None:
        return None
    cfg, source = task.cfg, getattr(task, "source_dictionary", None)
    if source is None:
        raise InputError("--state-store: hidden states are stored of text, this is speech")
    if getattr(cfg, "source_dropout", 0) or getattr(cfg, "source_replacement", 0):
        raise InputError(
            "--state-store has the states of sources without noise; leave --source-dropout and "
            "--source-replacement away"
        )
    return HiddenStates(weight, path, task.student, (source.pad(), task.target_dictionary.pad()))
