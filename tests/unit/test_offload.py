"""Models whose weights come to the device one at a time compute what they compute at home."""

import copy

import pytest
import torch
from torch import Tensor, nn

from seqdistill.teachers.offload import OffloadedModels
from seqdistill.teachers.placement import offload_traffic, teacher_memory

CPU = torch.device("cpu")


class Model(nn.Module):
    """A body with a buffer and a tied weight, and a projection that stays."""

    def __init__(self, seed: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(width)  # holds float32 and an int64 of a single number
        self.projection = nn.Linear(width, 11)
        nn.init.normal_(self.norm.running_mean)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.norm(self.second(self.first(x)).relu()))


def offloaded(models: list[Model]) -> OffloadedModels:
    kept = [[model.projection.weight, model.projection.bias] for model in models]
    return OffloadedModels(models, kept, CPU)


@pytest.mark.parametrize("M", [1, 2, 3, 5])
def test_every_model_gives_what_it_gave(M: int) -> None:
    """Of other sizes each, run three times over, once left in the middle."""
    models = [Model(seed, 3 + seed) for seed in range(M)]
    inputs = [torch.randn(4, 3 + seed) for seed in range(M)]
    expected = [model(x) for model, x in zip(copy.deepcopy(models), inputs, strict=True)]
    running = offloaded(models)
    for stop in (M, 2, M, 1, M):
        for m, model in enumerate(running):
            assert torch.equal(model(inputs[m]), expected[m])
            if m + 1 == stop:
                break


def test_what_is_on_the_device_and_what_is_copied() -> None:
    models = [Model(seed, 8) for seed in range(5)]
    projection = models[0].projection.weight.data_ptr()
    running = offloaded(models)
    # first: 64 + 8; norm: 4 · 8 and a number of 8 bytes; each tensor begins at a multiple of 64.
    body = 4 * 64 + 64 + 4 * 64 + 64
    assert running.device_bytes == 2 * body
    assert running.device_bytes == teacher_memory("offload", 5, body, 0).device
    for _ in running:
        pass
    first = running.copied_bytes
    assert first == 6 * body  # the first is there again when the last has run
    for _ in running:
        pass
    assert running.copied_bytes - first == offload_traffic(5, body)
    assert models[0].projection.weight.data_ptr() == projection


def test_two_models_are_copied_once() -> None:
    running = offloaded([Model(seed, 8) for seed in range(2)])
    for _ in range(3):
        list(running)
    assert running.copied_bytes == running.device_bytes


def test_tied_weights_stay_tied() -> None:
    models = [Model(seed, 4) for seed in range(3)]
    running = offloaded(models)
    for model in running:
        first, second = model.first.weight, model.second.weight
        assert first.data_ptr() == second.data_ptr()
