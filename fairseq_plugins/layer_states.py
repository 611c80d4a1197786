"""The states of a transformer's layers, noted by hooks while it runs anyway."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from seqdistill.errors import InputError
from seqdistill.targets.states import SIDES, parse_layer


def depths_of(model: Any, what: str) -> dict[str, int]:
    """Return how many layers each side of a transformer has.

    Args:
        model: fairseq's.
        what: it is, for messages.

    Raises:
        InputError: it has no layers on both sides.
    """
    depths = {side: len(getattr(getattr(model, side, None), "layers", ())) for side in SIDES}
    if not all(depths.values()):
        raise InputError(
            f"{what} is a {type(model).__name__}, whose layers do not give their states; expected "
            "an encoder-decoder transformer"
        )
    return depths


class LayerStates:
    """Notes what comes out of some of a model's layers.

    Args:
        model: a transformer of fairseq.
        layers: names, ``encoder.6``.
    """

    def __init__(self, model: Any, layers: Sequence[str]) -> None:
        self._noted: dict[str, Tensor] | None = None
        for name in layers:
            side, number = parse_layer(name)
            getattr(model, side).layers[number - 1].register_forward_hook(self._hook(name))

    @contextmanager
    def watching(self) -> Iterator[dict[str, Tensor]]:
        """Note the states of a forward pass inside: name → (T, B, D)."""
        self._noted = {}
        try:
            yield self._noted
        finally:
            self._noted = None

    def _hook(self, name: str) -> Any:
        def note(_module: Any, _given: Any, output: Any) -> None:
            if self._noted is not None:
                self._noted[name] = output[0] if isinstance(output, tuple) else output

        return note


def states_of_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """Return (n, D) the states (T, B, D) of the tokens that a mask (B, T) counts, by sentence."""
    return states.transpose(0, 1)[mask]
