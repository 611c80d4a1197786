"""Frozen models whose weights wait in the host's memory and come to the device one at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqdistill.teachers.placement import OFFLOAD_SLOTS

_ALIGNMENT = 64


@dataclass
class _Slot:
    """Memory on the device for one body.

    Attributes:
        memory: of bytes, as many as the largest body has.
        holds: which body is in it, or on its way there.
        ready: what a stream waits for before it reads the body; None on a CPU.
        free: what a stream waits for before it writes another; None on a CPU, or if never used.
    """

    memory: Tensor
    holds: int | None = None
    ready: torch.cuda.Event | None = None
    free: torch.cuda.Event | None = None


class OffloadedModels:
    """Runs models one after another; what is not kept on the device of each visits it in turn.

    Two slots on the device take turns. While a model runs in one, the next one is copied to the
    other: on a GPU from page-locked memory, by a stream of its own; on a CPU, where nothing is
    gained, at once, so that what runs there is what runs on a GPU. After the last comes the first
    again, so a step begins with a body that is there.

    Args:
        models: frozen, in evaluation mode, on the CPU. They are changed: their weights are views.
        kept: of each model the tensors that stay on the device (an output projection).
        device: where they run.
    """

    def __init__(
        self, models: Sequence[nn.Module], kept: Sequence[Sequence[Tensor]], device: torch.device
    ) -> None:
        self._models = list(models)
        self._bodies = [
            _Body(model, resident, device)
            for model, resident in zip(self._models, kept, strict=True)
        ]
        size = max(body.size for body in self._bodies)
        self._slots = [
            _Slot(torch.empty(size, dtype=torch.uint8, device=device))
            for _ in range(min(OFFLOAD_SLOTS, len(self._models)))
        ]
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        #: Bytes that have been copied to the device so far.
        self.copied_bytes = 0

    @property
    def device_bytes(self) -> int:
        """The bytes that bodies take on the device, those that are kept there apart."""
        return sum(slot.memory.numel() for slot in self._slots)

    def __iter__(self) -> Iterator[nn.Module]:
        """Give each model when it can run; it can until the next one is asked for."""
        for m, model in enumerate(self._models):
            slot = self._bring(m, beside=None)
            if slot.ready is not None:
                torch.cuda.current_stream(slot.memory.device).wait_event(slot.ready)
            self._bodies[m].live_in(slot.memory)
            # Begun before the model runs, or it would wait for that.
            self._bring((m + 1) % len(self._models), beside=slot)
            try:
                yield model
            finally:
                if self._stream is not None:
                    slot.free = torch.cuda.current_stream(slot.memory.device).record_event()

    def _bring(self, m: int, beside: _Slot | None) -> _Slot:
        """Return the slot of a body, to which it is being copied if it is not there.

        Args:
            m: which body.
            beside: a slot that is in use and must stay as it is.
        """
        for slot in self._slots:
            if slot.holds == m:
                return slot
        slot = next(slot for slot in self._slots if slot is not beside)
        body = self._bodies[m]
        slot.holds = m
        self.copied_bytes += body.size
        if self._stream is None:
            slot.memory[: body.size].copy_(body.memory)
            return slot
        with torch.cuda.stream(self._stream):
            if slot.free is not None:
                self._stream.wait_event(slot.free)
            slot.memory[: body.size].copy_(body.memory, non_blocking=True)
            slot.ready = self._stream.record_event()
        return slot


class _Body:
    """The weights of a model that do not stay on the device, in one row of bytes on the host."""

    def __init__(self, model: nn.Module, kept: Sequence[Tensor], device: torch.device) -> None:
        resident = {id(tensor) for tensor in kept}
        for tensor in kept:
            tensor.data = tensor.data.to(device)
        # Each once, however many names a tied one has.
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        self._tensors = [t for key, t in tensors.items() if key not in resident]
        self._places: list[int] = []
        self.size = 0
        for tensor in self._tensors:
            self._places.append(self.size)
            length = tensor.numel() * tensor.element_size()
            self.size += -(-length // _ALIGNMENT) * _ALIGNMENT
        self.memory = torch.empty(self.size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        for tensor, view in self._views(self.memory):
            view.copy_(tensor.data)
            tensor.data = view

    def live_in(self, memory: Tensor) -> None:
        """Let the model's tensors be views of a device's memory that holds this body."""
        for tensor, view in self._views(memory):
            tensor.data = view

    def _views(self, memory: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for tensor, begin in zip(self._tensors, self._places, strict=True):
            length = tensor.numel() * tensor.element_size()
            yield tensor, memory[begin : begin + length].view(tensor.dtype).view(tensor.shape)
