"""``--relational-weight``: the batch's similarity graphs of a student and of its teachers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from fairseq_plugins.criterions.batch import Batch, Distilled
from fairseq_plugins.criterions.terms.term import LossTerm, Sums, option_weight
from fairseq_plugins.features import gives_features
from fairseq_plugins.placement import Teachers
from fairseq_plugins.teachers import TeacherEnsemble
from seqdistill.errors import InputError
from seqdistill.losses.relational import pooled_states, relational_loss, similarity_graph

PARTS = ("encoder", "decoder")


@dataclass
class RelationalOptions:
    """Options of the term."""

    relational_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the distance between the similarity graphs of a batch's sentences "
            "that student and teachers see, added to the loss; 0 for none"
        },
    )
    relational_states: str = field(
        default="encoder,decoder",
        metadata={"help": "states that the graphs are of, with commas between them"},
    )
    relational_neighbours: int = field(
        default=0,
        metadata={"help": "edges of the graphs: the k nearest sentences of each; 0 for all"},
    )


class Relations(LossTerm):
    """Sees the states of a student and its teachers go by, and compares their graphs.

    Hooks note the pooled output of every encoder and decoder in the forward passes that training
    makes anyway; nothing is run twice.

    Args:
        weight: of the term, above 0.
        parts: ``encoder`` and ``decoder``, with commas between them.
        neighbours: of the graphs, see :func:`similarity_graph`.

    Raises:
        InputError: an option is impossible.
    """

    name = "relational"
    needs_features = True

    def __init__(self, weight: float, parts: str, neighbours: int) -> None:
        super().__init__(weight)
        self.parts = [part.strip() for part in parts.split(",") if part.strip()]
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise InputError(
                f"--relational-states: expected some of {','.join(PARTS)}, got {parts}"
            )
        if neighbours < 0:
            raise InputError(f"--relational-neighbours: expected 0 or more, got {neighbours}")
        self.neighbours = neighbours
        self._token_mask: Tensor | None = None
        self._student: dict[str, Tensor] = {}
        self._graphs: dict[str, list[Tensor]] = {}

    @classmethod
    def from_options(cls, cfg: Any, task: Any) -> Self | None:
        """See :meth:`LossTerm.from_options`."""
        weight = option_weight(cfg, "relational_weight")
        if not weight:
            return None
        return cls(weight, cfg.relational_states, cfg.relational_neighbours)

    def meet(self, student: Any, teachers: Teachers | None) -> None:
        """Set the hooks.

        Raises:
            InputError: there are no teachers here, or a model does not give its states.
        """
        models = models_here(teachers, "--relational-weight", "their states")
        for model in (student, *models):
            if not gives_features(model) or not hasattr(model, "encoder"):
                raise InputError(
                    f"--relational-weight: a {type(model).__name__} does not give the states of "
                    "its encoder and decoder; expected encoder-decoder transformers"
                )
        for is_student, members in ((True, [student]), (False, models)):
            for model in members:
                for part in self.parts:
                    module = getattr(model, part)
                    module.register_forward_hook(self._hook(part, is_student))

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """Note the states of the forward passes inside."""
        self._token_mask, self._student, self._graphs = batch.token_mask, {}, {}
        try:
            yield
        finally:
            self._token_mask = None

    def added(self, batch: Batch, distilled: Distilled) -> tuple[Tensor, Sums]:
        """Return the distance of the batch's graphs.

        It is one number a batch, and counts as many times as the batch has tokens (or sentences):
        so it weighs as much beside the mean of many as of few.
        """
        distance = self.distance() * batch.sample_size
        return distance, {"relational_loss": distance.detach()}

    def distance(self) -> Tensor:
        """Return the distance of the graphs that were noted last, summed over the parts."""
        total: Any = 0.0
        for part in self.parts:
            target = torch.stack(self._graphs[part]).mean(dim=0)
            total = total + relational_loss(self._student[part], target, self.neighbours)
        self._student, self._graphs = {}, {}
        return total

    def _hook(self, part: str, is_student: bool) -> Any:
        def note(_module: Any, _given: Any, output: Any) -> None:
            if self._token_mask is None:
                return
            pooled = self._pooled(part, output, self._token_mask)
            if is_student:
                self._student[part] = pooled
            else:
                graph = similarity_graph(pooled, self.neighbours)
                self._graphs.setdefault(part, []).append(graph)

        return note

    def _pooled(self, part: str, output: Any, token_mask: Tensor) -> Tensor:
        if part == "decoder":
            return pooled_states(output[0], token_mask)
        (states,) = output["encoder_out"]  # (S, B, D)
        states = states.transpose(0, 1)
        counted = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        for padding in output["encoder_padding_mask"]:  # (B, S), or there is none
            counted = ~padding.to(torch.bool)
        return pooled_states(states, counted)


def models_here(teachers: Teachers | None, option: str, what: str) -> list[Any]:
    """Return the teachers, all of them in this process.

    Args:
        teachers: where they live; None where a store stands for them.
        option: that needs them, for messages.
        what: it needs of them.

    Raises:
        InputError: there are none, or only some of them.
    """
    if teachers is None:
        raise InputError(
            f"{option} needs {what}, which --target-store does not hold; train with "
            "--ensemble-paths, or leave it away"
        )
    if not isinstance(teachers, TeacherEnsemble):
        raise InputError(
            f"{option} needs {what} in every process; take --teacher-placement replicate or "
            "offload, or leave it away"
        )
    return list(teachers.models)
