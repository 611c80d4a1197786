"""A whole training step of a transformer-base student: forward, backward, Adam.

Sides: (a) ``released``: the teachers' logits gathered and the research code's criterion;
``online``: the teachers' features into the fused loss; ``stored``: targets read from a store on the
disk, no teacher is run; (b) ``cross_entropy``: an ordinary step. Student and teachers are fairseq's
transformer (6 + 6 layers, d = 512, ffn 2,048, one embedding matrix of 40,000 pieces) with random
weights; the batch is N random target tokens and as many source tokens, without padding. All sides
train the same student in turn, with the same optimiser.
"""

import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from benchmarks.common import (
    available_bytes,
    base_parser,
    environment,
    prepare,
    progress,
    refusals,
    write_results,
)
from benchmarks.models import (
    Architecture,
    Batch,
    random_batch,
    random_dictionary,
    random_model,
    to_device,
)
from benchmarks.ours import fused_loss
from benchmarks.random_store import random_store
from benchmarks.released_criterion import gather_member_logits, released_criterion
from benchmarks.step_report import aims, draw, flat_rows, summary
from benchmarks.timing import interleaved
from seqdistill.errors import InputError
from seqdistill.kernels import MemberProjections
from seqdistill.targets.store import TargetStore

PRODUCTS = ("float32", "bfloat16")

# Teachers that would take more of the free memory than this share one set of weights.
_SHARE_OF_MEMORY = 0.4
_STORE_SENTENCES = 512
_LEARNING_RATE = 1e-6


@dataclass
class Clock:
    """CPU seconds of the parts of a step, every time it ran.

    Attributes:
        parts: seconds by (side, part), one per run.
    """

    parts: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    side: str = ""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block's time to a part of the side that runs."""
        begin = time.process_time()
        yield
        self.parts[self.side, name].append(time.process_time() - begin)


@dataclass
class Training:
    """What a step works on.

    Attributes:
        student: a fairseq model in training mode.
        optimizer: of its parameters.
        teachers: M models; the same object several times where memory asks for it.
        batch: source, previous and target tokens.
        store: with sentences of the batch's length.
        backend: of the fused loss.
        clock: receives the time of the parts.
    """

    student: Any
    optimizer: torch.optim.Optimizer
    teachers: list[Any]
    batch: Batch
    store: TargetStore
    backend: str
    clock: Clock
    draw_sentences: random.Random

    def finish(self, loss: Tensor) -> None:
        """Backward and update."""
        with self.clock.part("backward"):
            # Per token, as a trainer has it; the fused loss's incoming gradient is not 1 then.
            (loss / self.batch.target.numel()).backward()
        with self.clock.part("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def features(self) -> Tensor:
        """(B, T, D) of the student."""
        with self.clock.part("student forward"):
            features: Tensor = self.student(**self.batch.net_input, features_only=True)[0]
        return features


def released_step(training: Training) -> None:
    """(a): M forward passes with their logits, the gathered tensor, the research code's loss."""
    batch, clock = training.batch, training.clock
    V = training.student.decoder.output_projection.weight.shape[0]
    with clock.part("teachers"), torch.no_grad():
        logits = (teacher(**batch.net_input)[0] for teacher in training.teachers)
        gathered = gather_member_logits(logits, len(training.teachers), (*batch.target.shape, V))
    with clock.part("student forward"):
        own = training.student(**batch.net_input)[0]
    with clock.part("loss"):
        loss, _ = released_criterion(own, gathered, batch.target)
    training.finish(loss)


def online_step(training: Training, products: str) -> None:
    """Ours: M forward passes as far as the features, everything else in the fused loss."""
    batch, clock = training.batch, training.clock
    with clock.part("teachers"), torch.no_grad():
        target = MemberProjections(
            [teacher(**batch.net_input, features_only=True)[0] for teacher in training.teachers],
            [teacher.decoder.output_projection.weight for teacher in training.teachers],
        )
    _fused(training, target, products)


def stored_step(training: Training, products: str) -> None:
    """Ours: targets out of the store, of sentences drawn anew in every step."""
    B, T = training.batch.target.shape
    with training.clock.part("reading"):
        sentences = training.draw_sentences.sample(range(training.store.sentences), B)
        target = training.store.batch(sentences, [T] * B).to(training.batch.target.device)
    _fused(training, target, products)


def cross_entropy_step(training: Training) -> None:
    """(b): an ordinary step without teachers."""
    features = training.features()
    with training.clock.part("loss"):
        weight = training.student.decoder.output_projection.weight
        logits = linear(features, weight).flatten(0, 1)
        loss = cross_entropy(logits, training.batch.target.flatten(), reduction="sum")
    training.finish(loss)


def _fused(training: Training, target: Any, products: str) -> None:
    features = training.features().flatten(0, 1)
    with training.clock.part("loss"):
        loss = fused_loss(
            features,
            training.student.decoder.output_projection.weight,
            target,
            references=training.batch.target.flatten(),
            products=products,
            backend=training.backend,
        )
    training.finish(loss.loss_sum)


def steps(training: Training) -> dict[str, Callable[[], None]]:
    """Return every side's step by name; it tells the clock who runs."""

    def named(name: str, step: Callable[..., None], *arguments: str) -> Callable[[], None]:
        def run() -> None:
            training.clock.side = name
            step(training, *arguments)

        return run

    sides = {"released": named("released", released_step)}
    sides["cross_entropy"] = named("cross_entropy", cross_entropy_step)
    for products in PRODUCTS:
        sides[f"online_{products}"] = named(f"online_{products}", online_step, products)
        sides[f"stored_{products}"] = named(f"stored_{products}", stored_step, products)
    return sides


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = base_parser("step", __doc__ or "", "python -m benchmarks.step --members 4 10")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it work")
    parser.add_argument("--members", type=int, nargs="+", help="M (4 10; 2 with --quick)")
    parser.add_argument("--rounds", type=int, help="steps of every side (5; 2 with --quick)")
    parser.add_argument("--tokens", type=int, help="N, a multiple of 32 (256; 32 with --quick)")
    parser.add_argument("--optimiser", choices=("fused", "fairseq"), default="fused",
                        help="torch's fused Adam, or fairseq's own (%(default)s)")  # fmt: skip
    parser.add_argument("--share-teachers", action="store_true",
                        help="one set of weights for all teachers, who still run M times; "
                        "done by itself where memory asks for it")  # fmt: skip
    parser.add_argument("--backend", default="auto", help="of the fused loss (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    given = parser.parse_args(arguments)
    name = "step" + ("-quick" if given.quick else "") + ("-cuda" if given.device == "cuda" else "")
    with refusals(parser):
        stem = prepare(given, name)
        members = given.members or ([2] if given.quick else [4, 10])
        rounds = (2 if given.quick else 5) if given.rounds is None else given.rounds
        N = (32 if given.quick else 256) if given.tokens is None else given.tokens
        if min(members) < 2 or rounds < 1 or N < 32 or N % 32:
            raise InputError("expected at least 2 members, 1 round, and a multiple of 32 tokens")
        architecture = Architecture(1, 64, 128, 2) if given.quick else Architecture()
        V = 1_000 if given.quick else 40_000
        command = ["python", "-m", "benchmarks.step", *(arguments or sys.argv[1:])]
        record = environment(given.device, command) | {
            "what": "one training step: forward, backward, Adam",
            "architecture": vars(architecture),
            "V": V,
            "N": N,
            "optimiser": given.optimiser,
            "seed": given.seed,
            "rounds": rounds,
        }
        record["cells"] = [
            measure(given, architecture, V=V, M=M, N=N, rounds=rounds) for M in members
        ]
        record["aims"] = aims(record)
        write_results(stem, record, flat_rows(record), draw(record))
    print(summary(record))
    return 0


def measure(
    given: Any, architecture: Architecture, *, V: int, M: int, N: int, rounds: int
) -> dict[str, Any]:
    """Return times and parts of every side at M teachers.

    Args:
        given: the command line.
        architecture: of student and teachers.
        V: vocabulary entries.
        M: teachers.
        N: target tokens.
        rounds: of every side.
    """
    progress(f"M = {M}: models and store")
    T = 32
    dictionary = random_dictionary(V)
    student = random_model(architecture, dictionary, T + 1, given.seed).to(given.device).train()
    bytes_each = sum(p.numel() * p.element_size() for p in student.parameters())
    shared = given.share_teachers or (
        M * bytes_each > _SHARE_OF_MEMORY * available_bytes(given.device)
    )
    seeds = [given.seed + 1] if shared else range(given.seed + 1, given.seed + 1 + M)
    distinct = [
        random_model(architecture, dictionary, T + 1, seed).to(given.device).eval()
        for seed in seeds
    ]
    with tempfile.TemporaryDirectory(prefix="seqdistill-benchmark-") as folder:
        training = Training(
            student=student,
            optimizer=_optimiser(given.optimiser, student),
            teachers=distinct * M if shared else distinct,
            batch=to_device(random_batch(dictionary, N // T, T, given.seed), given.device),
            store=random_store(Path(folder) / "store", V, M, T, _STORE_SENTENCES),
            backend=given.backend,
            clock=Clock(),
            draw_sentences=random.Random(given.seed),
        )
        sides = steps(training)
        for name, step in sides.items():
            progress(f"  warm up: {name}")
            step()
        training.clock.parts.clear()
        timings = interleaved(sides, rounds, given.device)
    on_cpu = given.device == "cpu"  # a GPU computes on while the CPU's clock has stopped
    return {
        "M": M,
        "parameters": bytes_each // 4,
        "teachers": "one set of weights, run M times" if shared else "own weights",
        "sides": {
            name: timing.record()
            | {
                "parts": {
                    part: median(seconds)
                    for (side, part), seconds in training.clock.parts.items()
                    if side == name and (on_cpu or part == "reading")
                }
            }
            for name, timing in timings.items()
        },
    }


def _optimiser(name: str, model: Any) -> torch.optim.Optimizer:
    if name == "fairseq":
        from fairseq.optim.adam import Adam

        optimizer: torch.optim.Optimizer = Adam(model.parameters(), lr=_LEARNING_RATE)
        return optimizer
    return torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE, fused=True)


if __name__ == "__main__":
    sys.exit(main())
