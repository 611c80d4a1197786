"""Fresh tensors on huge pages are ordinary tensors; without the advice they are just as good."""

import pytest
import torch

from seqdistill.kernels import memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(3,), (0, 5), (3_000, 1_001)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_ordinary_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = memory.new_tensor(shape, dtype, CPU)
    assert (tensor.shape, tensor.dtype) == (shape, dtype)
    assert tensor.is_contiguous()
    tensor.fill_(2)
    assert (tensor == 2).all()


def test_only_large_tensors_are_advised_and_only_their_own_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    def advise(begin: object, size: object, advice: int) -> None:
        assert advice == 14
        asked.append((begin.value, size.value))  # type: ignore[attr-defined]

    monkeypatch.setattr(memory, "_madvise", lambda: advise)
    memory.new_tensor((1_000,), torch.float32, CPU)
    assert not asked
    tensor = memory.new_tensor((3_000_000,), torch.float32, CPU)
    ((begin, size),) = asked
    assert begin % 4096 == size % 4096 == 0
    assert tensor.data_ptr() <= begin
    assert begin + size <= tensor.data_ptr() + 4 * tensor.numel()
    assert size > 4 * tensor.numel() - 2 * 4096


def test_without_the_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_madvise", lambda: None)
    assert memory.new_tensor((3_000_000,), torch.float32, CPU).shape == (3_000_000,)
