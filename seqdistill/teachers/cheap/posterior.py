"""A posterior that is sampled while a student learns from it: Bayesian dark knowledge.

Balan, Rathod, Murphy & Welling (2015) let a chain of Langevin steps and its student take turns on
the batches of one training, so that no sample is ever stored; Vadera, Jalaian & Marlin (2020) let
the student learn expectations over the chain beside the mean prediction.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seqdistill.errors import InputError
from seqdistill.teachers.cheap.langevin import Langevin, cycle_at

#: What of an optimizer's groups is its progress, not an option.
_PROGRESS = ("step", "params")


@dataclass(frozen=True)
class PosteriorPlan:
    """When the chain gives samples, and how fast it moves.

    Attributes:
        rate: learning rate of a Langevin step; of a cycle its largest.
        window: samples that teach at a time, the newest ones.
        thinning: updates between two samples.
        cycle: updates of a cycle, whose last weights are its sample (cyclical SGLD); 0: the rate is
            constant, and every ``thinning`` updates give a sample.
        exploration: share of a cycle without noise.

    Raises:
        InputError: a number out of its range.
    """

    rate: float
    window: int = 1
    thinning: int = 1
    cycle: int = 0
    exploration: float = 0.8

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("rate", self.rate, self.rate > 0, "above 0"),
            ("window", self.window, self.window >= 1, "1 or more samples"),
            ("thinning", self.thinning, self.thinning >= 1, "1 or more updates"),
            ("cycle", self.cycle, self.cycle >= 0, "0 or more updates"),
            ("exploration", self.exploration, 0 <= self.exploration < 1, "0 to below 1"),
        ):
            if not fits:
                raise InputError(f"posterior: expected {expected} for {name}, got {value:g}")

    def step(self, updates: int) -> tuple[float, bool]:
        """Return the rate of the update after so many, and whether it adds no noise."""
        if not self.cycle:
            return self.rate, False
        rate, explores, _ = cycle_at(updates, self.cycle, self.rate, self.exploration)
        return rate, explores

    def gives_sample(self, updates: int) -> bool:
        """Whether the weights after so many updates are a sample."""
        return updates % (self.cycle or self.thinning) == 0


class PosteriorChain:
    """A model that takes Langevin steps, and the newest samples of its path.

    The first sample is what the chain starts from; until there are as many as the window holds,
    fewer teach.

    Args:
        start: a trained model; it becomes the first sample, frozen.
        plan: of the chain.
        data_size: N, target tokens of the training set.
        options: further ones of :class:`Langevin`, such as ``temperature`` and ``seed``.

    Raises:
        InputError: an option out of its range.
    """

    def __init__(
        self, start: nn.Module, plan: PosteriorPlan, data_size: float, **options: Any
    ) -> None:
        self.plan = plan
        # Without dropout: the likelihood is of the model that samples are.
        self.model = copy.deepcopy(start).requires_grad_(True).float().eval()
        #: The newest, at most as many as the window holds.
        self.samples: list[nn.Module] = [start.requires_grad_(False).eval()]
        self.updates = 0
        self._oldest = 0
        self._count: Tensor | float = 0.0
        self._optimizer = Langevin(
            self.model.parameters(), plan.rate, data_size, **{"preconditioner": "rmsprop"} | options
        )

    def learn(self, loss: Tensor, count: int) -> None:
        """Add a batch to the update that is under way.

        Args:
            loss: of :attr:`model`, nats, summed over tokens.
            count: of the tokens.
        """
        loss.backward()  # type: ignore[no-untyped-call]
        self._count += count

    @torch.no_grad()
    def step(self) -> None:
        """Take the step that the batches since the last one ask for, of all processes together."""
        weights = [weight for group in self._groups for weight in group["params"]]
        gradients = [
            torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights
        ]
        count = _add_up(gradients, self._count)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.div_(max(count, 1.0))
        rate, explores = self.plan.step(self.updates)
        for group in self._groups:
            group["lr"], group["explores"] = rate, explores
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._count = 0.0
        self.updates += 1
        if self.plan.gives_sample(self.updates):
            self._take_sample()

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def _take_sample(self) -> None:
        if len(self.samples) < self.plan.window:
            self.samples.append(copy.deepcopy(self.model).requires_grad_(False).eval())
            return
        # In place: whoever holds the list has the models, too.
        self.samples[self._oldest].load_state_dict(self.model.state_dict())
        self._oldest = (self._oldest + 1) % self.plan.window

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: chain, optimizer and samples."""
        return {
            "updates": self.updates,
            "oldest": self._oldest,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "samples": [sample.state_dict() for sample in self.samples],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept.

        Raises:
            InputError: its window held more samples than this one does.
        """
        if len(state["samples"]) > self.plan.window:
            raise InputError(
                f"the checkpoint has a window of {len(state['samples'])} samples, and "
                f"{self.plan.window} are asked for; go on with as many as it was begun with"
            )
        self.model.load_state_dict(state["model"])
        options = [{k: v for k, v in g.items() if k not in _PROGRESS} for g in self._groups]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self._groups, options, strict=True):
            group.update(own)
        while len(self.samples) < len(state["samples"]):
            self.samples.append(copy.deepcopy(self.samples[0]))
        for sample, weights in zip(self.samples, state["samples"], strict=True):
            sample.load_state_dict(weights)
        self.updates, self._oldest = state["updates"], state["oldest"]


def _add_up(gradients: list[Tensor], count: Tensor | float) -> float:
    """Sum gradients and counts over the processes of a data-parallel training, in place."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return float(count)
    counted = torch.tensor([float(count)], device=gradients[0].device)
    for tensor in (*gradients, counted):
        dist.all_reduce(tensor)
    return float(counted)
