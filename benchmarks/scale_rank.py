"""``python -m benchmarks.scale_rank JSON``: one rank of a real training on DeepSpeed, measured.

``scale.py`` starts it, under torchrun. Runs ``seqdistill-fairseq-train`` in this process and writes
the peak of the resident set above what a tiny training without DeepSpeed holds, the seconds of
each update, and what went through torch.distributed in it, which is what deepspeed.comm calls.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from benchmarks.timing import peak_bytes_of

#: Collectives, by how many bytes a ring sends of them.
RINGS = {
    "all_reduce": "all_reduce",
    "reduce": "reduce_scatter",
    "broadcast": "all_gather",
    "all_gather": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "_all_gather_base": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
}

_TINY = {"V": 64, "M": 2, "layers": 1, "width": 64, "ffn": 64, "heads": 2, "sentences": 2,
         "length": 8, "updates": 2}  # fmt: skip


class Counter:
    """Bytes and calls of every collective, update by update."""

    def __init__(self) -> None:
        self.updates: list[dict[str, list[int]]] = []
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self._now: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def watch(self) -> None:
        """Count what is called from now on; before deepspeed is imported, which keeps functions."""
        for name in RINGS:
            setattr(distributed, name, self._counting(name, getattr(distributed, name)))

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            found = self._now[name]
            found[0] += 1
            found[1] += max(map(_bytes, (*args, *kwargs.values())), default=0)
            return call(*args, **kwargs)

        return counted

    def begin(self) -> tuple[float, float]:
        """Begin an update."""
        self._now.clear()
        return time.perf_counter(), time.process_time()

    def end(self, begun: tuple[float, float]) -> None:
        """Note an update."""
        self.seconds.append(time.perf_counter() - begun[0])
        self.cpu_seconds.append(time.process_time() - begun[1])
        self.updates.append({name: list(found) for name, found in self._now.items()})


def _bytes(given: Any) -> int:
    """The size of a tensor, or of a list of them: the whole of what is gathered or scattered."""
    if isinstance(given, Tensor):
        return given.numel() * given.element_size()
    if isinstance(given, (list, tuple)):
        return sum(map(_bytes, given))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the training that the JSON describes; write FOLDER/rankN.json."""
    (text,) = arguments if arguments is not None else sys.argv[1:]
    settings = json.loads(text)
    torch.set_num_threads(settings["threads"])
    counter = Counter()
    counter.watch()

    from benchmarks import plan_run

    plan_run.train(_TINY, defaultdict(list))
    import deepspeed  # noqa: F401

    from fairseq_plugins.scale import trainer
    from seqdistill.cli.fairseq_programs import train

    step = trainer.DeepSpeedTrainer.train_step

    def measured(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = counter.begin()
        result = step(self, *args, **kwargs)
        counter.end(begun)
        return result

    trainer.DeepSpeedTrainer.train_step = measured  # type: ignore[method-assign]
    sys.argv = ["seqdistill-fairseq-train", *settings["arguments"]]

    def run() -> None:
        try:
            train()
        except SystemExit as left:
            if left.code:
                raise

    peak, how = peak_bytes_of(run)
    rank = os.environ.get("RANK", "0")
    record = {
        "peak_bytes": peak,
        "measured_as": how,
        "seconds": counter.seconds,
        "cpu_seconds": counter.cpu_seconds,
        "collectives": counter.updates,
    }
    Path(settings["folder"], f"rank{rank}.json").write_text(json.dumps(record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
