"""``python -m benchmarks.decoding_memory JSON``: the peak memory of one side, in this process.

``decoding.py`` starts it. The floor is what is held when the models are made and the same side has
run with tiny ones: libraries are loaded, kernels compiled, threads started.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.decoding_sides import STATES, Decoding
from benchmarks.timing import peak_bytes_of

_TINY = {
    "V": 64,
    "B": 1,
    "length": 4,
    "architecture": {"layers": 1, "width": 16, "ffn": 16, "heads": 2},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print {"held_bytes", "peak_bytes", "measured_as"} of the side that the JSON names."""
    (text,) = arguments if arguments is not None else sys.argv[1:]
    settings = json.loads(text)
    torch.set_num_threads(settings["threads"])
    _call(Decoding.make({**settings, **_TINY}), settings["side"])()
    call = _call(Decoding.make(settings), settings["side"])
    held = _resident_bytes()
    peak, how = peak_bytes_of(call)
    print(json.dumps({"held_bytes": held, "peak_bytes": peak, "measured_as": how}))
    return 0


def _call(decoding: Decoding, side: str) -> Callable[[], object]:
    return decoding.states if side == STATES else decoding.sides()[side]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


if __name__ == "__main__":
    sys.exit(main())
