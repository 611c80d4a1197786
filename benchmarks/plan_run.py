"""``python -m benchmarks.plan_run JSON``: a small training in this process, measured.

``plan.py`` starts it. A student of fairseq, M teachers and the fused loss on random tokens, with
fairseq's Adam. The floor of the memory is what is held when a tiny training has loaded what is
loaded; what is reported is the high-water mark of the resident set above it, from the
building of the models to the last update.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from fairseq.optim.adam import Adam
from torch import Tensor

from benchmarks.models import Architecture, random_batch, random_dictionary, random_model
from benchmarks.timing import peak_bytes_of
from seqdistill.kernels import MemberProjections, fused_distillation_loss

# Of the training that loads libraries and starts threads before memory is looked at.
_SMALL = {"V": 64, "M": 2, "layers": 1, "width": 64, "ffn": 64, "heads": 2, "sentences": 2,
          "length": 8, "updates": 2}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print {"peak_bytes", "measured_as", "seconds"} of the training that the JSON describes."""
    (text,) = arguments if arguments is not None else sys.argv[1:]
    settings = json.loads(text)
    torch.set_num_threads(settings["threads"])
    train({**settings, **_SMALL}, defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    peak, how = peak_bytes_of(lambda: train(settings, seconds))
    # The first update allocates what the later ones use again.
    medians = {name: median(values[1:] or values) for name, values in seconds.items()}
    print(json.dumps({"peak_bytes": peak, "measured_as": how, "seconds": medians}))
    return 0


def train(settings: dict[str, Any], seconds: dict[str, list[float]]) -> None:
    """Run updates and note the seconds of their parts."""
    dictionary = random_dictionary(settings["V"])
    B, T = settings["sentences"], settings["length"]
    sizes = (settings["layers"], settings["width"], settings["ffn"], settings["heads"])

    def model(seed: int) -> Any:
        return random_model(Architecture(*sizes), dictionary, T, seed)

    student = model(1).train()
    teachers = [model(seed).eval().requires_grad_(False) for seed in range(2, settings["M"] + 2)]
    optimizer = Adam(student.parameters(), lr=1e-6)
    batch = random_batch(dictionary, B, T, 1)

    def timed(name: str, call: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = call()
        seconds[name].append(time.process_time() - begin)
        return result

    def members() -> MemberProjections:
        with torch.no_grad():
            return MemberProjections(
                [one(**batch.net_input, features_only=True)[0].flatten(0, 1) for one in teachers],
                [one.decoder.output_projection.weight for one in teachers],
            )

    def loss(features: Tensor, target: MemberProjections) -> Tensor:
        weight = student.decoder.output_projection.weight
        loss_sum: Tensor = fused_distillation_loss(features, weight, target).loss_sum
        return loss_sum.div(B * T)

    for _ in range(settings["updates"]):
        output = timed("student forward", lambda: student(**batch.net_input, features_only=True))
        target = timed("teachers", members)
        features = output[0].flatten(0, 1)
        del output
        value = timed("fused loss", partial(loss, features, target))
        del features, target
        timed("student backward", value.backward)
        del value
        timed("optimizer", optimizer.step)
        optimizer.zero_grad()


if __name__ == "__main__":
    sys.exit(main())
