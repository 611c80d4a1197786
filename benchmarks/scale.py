"""Memory, traffic and weak scaling of real trainings on DeepSpeed, beside the plan's predictions.

``seqdistill-fairseq-train --deepspeed`` with gloo on the CPU, for ZeRO 0 to 3 and 1 and 2 ranks: a
student and two teachers with vocabularies so large that tensors dominate; as many tokens on every
rank. The plan's formulas were corrected with the first model beside it; the others of ``--model``
show how far off they are elsewhere. Memory is the resident set of a rank above what a tiny
training without DeepSpeed holds; to the plan's tensors is added what the same program takes with a
model that is next to nothing. Traffic is what goes through torch.distributed in an update,
counted as rings.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    ROOT,
    base_parser,
    environment,
    new_figure,
    prepare,
    progress,
    provenance,
    refusals,
    text_table,
    write_results,
)
from benchmarks.models import Architecture, random_dictionary, random_model
from benchmarks.scale_rank import RINGS
from benchmarks.timing import ChildFailedError
from seqdistill.errors import InputError
from seqdistill.planning import (
    Assumptions,
    Training,
    collective_bytes,
    machine,
    memory,
    text_size,
    traffic,
)

LENGTH = 32
SENTENCES = 8
MEMBERS = 2


@dataclass(frozen=True)
class Model:
    """A student, its teachers' size as well, and how it is trained.

    Attributes:
        sizes: V, and layers, width, ffn and heads of each side.
        update_freq: micro-batches of an update.
        precision: of the student; the teachers' is float32.
        stages: of ZeRO that can be measured.
    """

    sizes: dict[str, int]
    update_freq: int = 1
    precision: str = "float32"
    stages: tuple[int, ...] = (0, 1, 2, 3)


_WIDER = {"V": 20_000, "layers": 2, "width": 768, "ffn": 3072, "heads": 12}
MODELS = {
    "fitted": Model({"V": 40_000, "layers": 1, "width": 512, "ffn": 2048, "heads": 8}),
    "wider": Model(_WIDER, update_freq=2),
    "wider-bfloat16": Model(_WIDER, precision="bfloat16", stages=(1, 2, 3)),
}
QUICK = Model({"V": 400, "layers": 1, "width": 32, "ffn": 64, "heads": 2})

# What fairseq wants of a checkpoint beside model and settings.
_HISTORY = {
    "optimizer_history": [
        {
            "criterion_name": "CrossEntropyCriterion",
            "optimizer_name": "FairseqAdam",
            "lr_scheduler_state": {},
            "num_updates": 1,
        }
    ],
    "extra_state": {"train_iterator": {"epoch": 1}},
}


def make_data(folder: Path, sizes: dict[str, int], sentences: int) -> tuple[Path, list[Path]]:
    """Write binarised sentences of one length and random teachers; return where they are."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    dictionary = random_dictionary(sizes["V"])
    data = folder / "data"
    data.mkdir()
    generator = torch.Generator().manual_seed(1)
    for language in ("en", "de"):
        dictionary.save(str(data / f"dict.{language}.txt"))
        for subset, count in (("train", sentences), ("valid", 2)):
            stem = data / f"{subset}.en-de.{language}"
            builder = MMapIndexedDatasetBuilder(f"{stem}.bin", dtype=np.int32)
            for _ in range(count):
                words = torch.randint(4, sizes["V"], (LENGTH - 1,), generator=generator)
                builder.add_item(torch.cat([words, torch.tensor([dictionary.eos()])]))
            builder.finalize(f"{stem}.idx")
    teachers = []
    for seed in range(1, MEMBERS + 1):
        architecture = Architecture(
            sizes["layers"], sizes["width"], sizes["ffn"], sizes["heads"], 0.1
        )
        model = random_model(architecture, dictionary, LENGTH, seed)
        path = folder / f"teacher{seed}.pt"
        state = {"args": _arguments(sizes), "model": model.state_dict(), **_HISTORY}
        torch.save(state, path)
        teachers.append(path)
    return data, teachers


def _arguments(sizes: dict[str, int]) -> Any:
    from argparse import Namespace

    from fairseq.models.transformer.transformer_legacy import base_architecture

    args = Namespace(
        arch="transformer", task="translation", criterion="cross_entropy", optimizer="adam",
        share_all_embeddings=True, max_source_positions=LENGTH, max_target_positions=LENGTH,
        **_architecture(sizes),
    )  # fmt: skip
    base_architecture(args)
    return args


def _architecture(sizes: dict[str, int]) -> dict[str, int]:
    return {
        f"{side}_{name}": sizes[key]
        for side in ("encoder", "decoder")
        for name, key in (
            ("layers", "layers"),
            ("embed_dim", "width"),
            ("ffn_embed_dim", "ffn"),
            ("attention_heads", "heads"),
        )
    }


def run(
    folder: Path, model: Model, stage: int, ranks: int, updates: int, threads: int
) -> list[dict[str, Any]]:
    """Run a training and return what each rank measured.

    Raises:
        ChildFailedError: it did not end well.
    """
    place = folder / f"zero{stage}-{ranks}"
    place.mkdir()
    settings: dict[str, Any] = {"zero_optimization": {"stage": stage}}
    if model.precision == "bfloat16":
        settings["bf16"] = {"enabled": True}
    (place / "ds.json").write_text(json.dumps(settings), encoding="utf-8")
    options = [
        str(folder / "data"), "--task", "ensemble_teacher_translation",
        "--ensemble-paths", os.pathsep.join(str(p) for p in sorted(folder.glob("teacher*.pt"))),
        "--criterion", "proxy_dirichlet", "--arch", "transformer", "--share-all-embeddings",
        "--max-source-positions", str(LENGTH), "--max-target-positions", str(LENGTH),
        "--optimizer", "adam", "--lr", "1e-6", "--batch-size", str(SENTENCES),
        "--max-update", str(updates), "--cpu", "--num-workers", "0", "--seed", "1",
        "--no-save", "--disable-validation", "--save-dir", str(place / "save"),
        "--no-progress-bar", "--deepspeed", str(place / "ds.json"),
        "--update-freq", str(model.update_freq),
        *(["--bf16"] if model.precision == "bfloat16" else []),
    ]  # fmt: skip
    for name, value in _architecture(model.sizes).items():
        options += ["--" + name.replace("_", "-"), str(value)]
    given = {"folder": str(place), "threads": threads, "arguments": options}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
         str(ranks), "-m", "benchmarks.scale_rank", json.dumps(given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        # Freed memory goes back to the system, so that what is resident is what tensors hold.
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(threads),
             "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    found = sorted(place.glob("rank*.json"))
    if done.returncode != 0 or len(found) != ranks:
        # What the launcher adds to it is of no use.
        said = done.stderr.partition("torch.distributed.elastic")[0][-3000:]
        raise ChildFailedError(f"ZeRO {stage}, {ranks} ranks: exit {done.returncode}: {said}")
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def planned(model: Model, stage: int, ranks: int, framework: float) -> Training:
    """Return what is planned for a run; ``framework`` bytes are what it takes without tensors."""
    sizes = model.sizes
    size = text_size(sizes["layers"], sizes["width"], sizes["ffn"], sizes["heads"])
    return Training(
        size,
        size,
        MEMBERS,
        model.sizes["V"],
        SENTENCES * LENGTH,
        LENGTH,
        LENGTH,
        replace(machine("cpu"), has_bfloat16=True),
        gpus=ranks,
        stage=stage,
        update_freq=model.update_freq,
        precision=model.precision,
        teacher_precision="float32",
        assumptions=Assumptions(framework_gib=framework / 2**30, fragmentation=0.0),
    )


def framework_bytes(folder: Path, updates: int, threads: int) -> int:
    """Return what a rank of the same program takes with a model that is next to nothing."""
    place = folder / "framework"
    place.mkdir()
    make_data(place, QUICK.sizes, SENTENCES * 2 * (updates + 1))
    progress("a rank without tensors")
    found = run(place, QUICK, 1, 2, updates, threads)
    tensors = memory(planned(QUICK, 1, 2, 0.0)).total
    return int(max(rank["peak_bytes"] for rank in found)) - tensors


def sent_bytes(collectives: dict[str, list[int]], ranks: int) -> int:
    """Return what a rank sent in an update, were every collective a ring."""
    return sum(
        collective_bytes(RINGS[name], found[1], ranks) for name, found in collectives.items()
    )


def measure(
    folder: Path,
    model: Model,
    stage: int,
    ranks: int,
    updates: int,
    threads: int,
    framework: float,
) -> dict[str, Any]:
    """Return a run's figures beside the plan's."""
    found = run(folder, model, stage, ranks, updates, threads)
    return {
        "stage": stage,
        "ranks": ranks,
        "peak_bytes": [rank["peak_bytes"] for rank in found],
        "sent_bytes": sent_bytes(found[0]["collectives"][-1], ranks),
        "collectives": found[0]["collectives"][-1],
        "seconds": median(found[0]["seconds"][1:]),
        "cpu_seconds": median(found[0]["cpu_seconds"][1:]),
        "measured_as": found[0]["measured_as"],
        **predictions(model, stage, ranks, framework),
    }


def predictions(model: Model, stage: int, ranks: int, framework: float) -> dict[str, Any]:
    """Return what the plan says of a run."""
    training = planned(model, stage, ranks, framework)
    predicted, moved = memory(training), traffic(training)
    return {
        "predicted_bytes": predicted.total,
        "phase": predicted.phase,
        "predicted_parts": dict(predicted.parts),
        "predicted_sent_bytes": moved.gradients + moved.parameters,
    }


def again(path: Path) -> dict[str, Any]:
    """Return a record with the present predictions beside its measurements, and its origin."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    model = Model(**record["model"])
    for cell in record["cells"]:
        cell |= predictions(model, cell["stage"], cell["ranks"], record["framework_bytes"])
    record["predictions"] = "made again from the measurements of this commit and command"
    return record


def flat_rows(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a run, with ratios."""
    alone = {cell["stage"]: cell for cell in cells if cell["ranks"] == 1}
    rows = []
    for cell in cells:
        peak = max(cell["peak_bytes"])
        same = alone.get(cell["stage"])
        scaling = None if same is None else round(same["seconds"] / cell["seconds"], 3)
        rows.append(
            {
                "stage": cell["stage"],
                "ranks": cell["ranks"],
                "peak_mib": round(peak / 2**20),
                "predicted_mib": round(cell["predicted_bytes"] / 2**20),
                "predicted_over_measured": round(cell["predicted_bytes"] / peak, 3),
                "sent_mib": round(cell["sent_bytes"] / 2**20, 1),
                "predicted_sent_mib": round(cell["predicted_sent_bytes"] / 2**20, 1),
                "seconds": round(cell["seconds"], 3),
                "cpu_seconds": round(cell["cpu_seconds"], 3),
                "weak_scaling": scaling,
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a text table."""
    columns = list(rows[0])
    return text_table(columns, [[str(row[column]) for column in columns] for row in rows])


def draw(rows: Sequence[dict[str, Any]]) -> Any:
    """Return a figure of memory, measured and predicted."""
    figure, axes = new_figure(1)
    axis = axes[0][0]
    places = range(len(rows))
    axis.bar(places, [row["peak_mib"] for row in rows], width=0.6, label="measured")
    axis.plot(places, [row["predicted_mib"] for row in rows], "k_", markersize=18, label="plan")
    axis.set_xticks(list(places), [f"ZeRO {row['stage']}\n{row['ranks']} ranks" for row in rows])
    axis.tick_params(axis="x", labelsize=6)
    axis.set_ylabel("MiB of a rank")
    axis.set_ylim(0)
    axis.legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = base_parser("scale", __doc__ or "", "python -m benchmarks.scale --stages 0 2")
    parser.add_argument("--model", choices=tuple(MODELS), default="fitted", help="(%(default)s)")
    parser.add_argument("--stages", type=int, nargs="+", metavar="N", help="of ZeRO (all)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--updates", type=int, default=3, help="of each run (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it work")
    parser.add_argument("--again", type=Path, metavar="JSON", help="predict anew for measurements")
    given = parser.parse_args(arguments)
    model = QUICK if given.quick else MODELS[given.model]
    named = "scale" if given.model == "fitted" else f"scale-{given.model}"
    with refusals(parser), tempfile.TemporaryDirectory() as name:
        stem = prepare(given, "scale-quick" if given.quick else named)
        if given.again is not None:
            record = again(given.again)
            rows = flat_rows(record["cells"])
            print(table(rows))
            write_results(stem, record, rows, draw(rows))
            return 0
        called = sys.argv[1:] if arguments is None else arguments
        record = environment("cpu", ["python", "-m", "benchmarks.scale", *called])
        framework = framework_bytes(Path(name), given.updates, given.threads)
        folder = Path(name, "runs")
        folder.mkdir()
        sentences = SENTENCES * model.update_freq * max(given.ranks) * (given.updates + 1)
        make_data(folder, model.sizes, sentences)
        cells: list[dict[str, Any]] = []
        skipped: list[str] = []
        for stage in given.stages or model.stages:
            for ranks in given.ranks:
                progress(f"ZeRO {stage}, {ranks} rank(s)")
                how = (stage, ranks, given.updates, given.threads, framework)
                try:
                    cells.append(measure(folder, model, *how))
                except ChildFailedError as error:
                    progress(str(error))
                    skipped.append(str(error).partition("\n")[0])
        if not cells:
            raise InputError(f"no run ended well: {skipped[0]}")
        rows = flat_rows(cells)
        print(table(rows))
        print(provenance(record))
        about = {"model": asdict(model), "framework_bytes": framework, "skipped": skipped}
        write_results(stem, {**record, **about, "cells": cells}, rows, draw(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
