"""``python -m benchmarks.memory JSON``: the peak memory of one side of one cell, in this process.

``loss.py`` starts it: a fresh process has no memory that an earlier side left behind. The floor is
what is held when the inputs are made and the same side has run on a small cell: libraries are
loaded, extensions built, threads started.
"""

import json
import sys
from collections.abc import Sequence

import torch

from benchmarks.inputs import make_inputs
from benchmarks.sides import Cell, side
from benchmarks.timing import peak_bytes_of

# Of the cell on which a side warms up.
_SMALL_V, _SMALL_M, _SMALL_N = 64, 2, 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Print {"peak_bytes", "measured_as"} of the side that the JSON names."""
    (text,) = arguments if arguments is not None else sys.argv[1:]
    settings = json.loads(text)
    torch.set_num_threads(settings["threads"])
    scope, name, device = settings["scope"], settings["side"], settings["device"]

    small = make_inputs(_SMALL_V, _SMALL_M, _SMALL_N, settings["D"], device=device)
    side(Cell.of(scope, small), name)()
    inputs = make_inputs(
        settings["V"],
        settings["M"],
        settings["N"],
        settings["D"],
        seed=settings["seed"],
        device=device,
        shared_projection=settings["shared"],
    )
    call = side(Cell.of(scope, inputs), name)
    peak, how = peak_bytes_of(call, device)
    print(json.dumps({"peak_bytes": peak, "measured_as": how}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
