"""``python -m benchmarks.teacher_placement``: memory, traffic and time of where teachers live.

Real processes that communicate by gloo; each trains steps of a student (fused loss, forward and
backward) with an ensemble that is replicated, sharded over them, or offloaded. Peak memory is that
of a process above what it held before the ensemble was made; on a CPU the device is the host, so
``offload`` shows both parts. Traffic is what the kernel counted on the process's sockets.
"""

import multiprocessing
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import common
from benchmarks.models import Architecture, random_batch, random_dictionary, random_model
from benchmarks.timing import peak_bytes_of
from seqdistill.teachers.placement import shard_traffic, teacher_memory

# Where bytes_received stands in Linux's struct tcp_info.
_BYTES_RECEIVED = 128

#: Placement and whether transfers overlap with products.
SIDES = (("replicate", True), ("shard", True), ("shard", False), ("offload", True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write results."""
    parser = common.base_parser(
        "teacher_placement",
        "Measure memory, traffic and time of replicated, sharded and offloaded teachers.",
        "python -m benchmarks.teacher_placement --members 4 --processes 2",
    )
    parser.add_argument("--members", type=int, default=4, help="teachers (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="G, one group (%(default)s)")
    parser.add_argument("--vocabulary", type=int, default=8000, help="V (%(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="of either side (%(default)s)")
    parser.add_argument("--width", type=int, default=512, help="D; ffn 4 D (%(default)s)")
    parser.add_argument("--sentences", type=int, default=8, help="of 16 tokens (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="after the first (%(default)s)")
    given = parser.parse_args(arguments)
    with common.refusals(parser):
        stem = common.prepare(given, "teacher_placement")
        command = ["python", "-m", "benchmarks.teacher_placement", *(arguments or sys.argv[1:])]
        record = common.environment("cpu", command)
        settings = {
            name: getattr(given, name)
            for name in ("members", "processes", "vocabulary", "layers", "width", "sentences",
                         "steps", "seed", "threads")
        }  # fmt: skip
        rows = []
        for placement, overlap in SIDES:
            common.progress(f"{placement}, overlap {overlap}")
            rows.append(measure({**settings, "placement": placement, "overlap": overlap}))
        for row in rows:
            row["peak_ratio"] = round(row["peak_bytes"] / rows[0]["peak_bytes"], 3)
        common.write_results(stem, {**record, "settings": settings, "rows": rows}, rows)
    print(table(rows))
    print(common.provenance(record))
    return 0


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Run one side in fresh processes; return the largest memory and time, and rank 0's traffic."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meet'}"
        ranks = [
            context.Process(target=_rank, args=(rank, meeting, settings, results))
            for rank in range(settings["processes"])
        ]
        for process in ranks:
            process.start()
        found = [results.get(timeout=600) for _ in ranks]
        for process in ranks:
            process.join()
    row = dict(found[0])
    row["peak_bytes"] = max(one["peak_bytes"] for one in found)
    row["step_seconds"] = round(max(one["step_seconds"] for one in found), 3)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the figures as text."""
    header = [
        "placement",
        "peak MiB",
        "ratio",
        "weights MiB",
        "received kB",
        "formula kB",
        "s/step",
    ]
    return common.text_table(
        header,
        [
            [
                row["placement"] + ("" if row["overlap"] else ", no overlap"),
                f"{row['peak_bytes'] / 2**20:.0f}",
                f"{row['peak_ratio']:.2f}",
                f"{row['weight_bytes'] / 2**20:.0f}",
                f"{row['received_bytes'] / 1e3:.0f}",
                f"{row['formula_bytes'] / 1e3:.0f}",
                f"{row['step_seconds']:.2f}",
            ]
            for row in rows
        ],
    )


def _rank(rank: int, meeting: str, settings: dict[str, Any], results: Any) -> None:
    from fairseq_plugins.features import token_features
    from fairseq_plugins.placement import ShardedTeachers
    from fairseq_plugins.teachers import TeacherEnsemble, projection_tensors
    from seqdistill.kernels import fused_distillation_loss, sharded
    from seqdistill.teachers.group import TeacherGroup

    torch.set_num_threads(settings["threads"])
    G, M, V = settings["processes"], settings["members"], settings["vocabulary"]
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=G)
    group = TeacherGroup.create(G)
    width = settings["width"]
    architecture = Architecture(settings["layers"], width, 4 * width, 8)
    dictionary = random_dictionary(V)
    student = random_model(architecture, dictionary, 64, settings["seed"])
    batch = random_batch(dictionary, settings["sentences"], 16, settings["seed"] + rank)
    mask = torch.ones_like(batch.target, dtype=torch.bool)
    sharded.OVERLAP = settings["overlap"]

    def load(path: str) -> Any:
        return random_model(architecture, dictionary, 64, int(path))

    paths = [str(100 + m) for m in range(M)]
    figures: dict[str, Any] = {}

    def work() -> None:
        if settings["placement"] == "shard":
            teachers: Any = ShardedTeachers(paths, load, "float32", group)
        else:
            teachers = TeacherEnsemble(paths, load, "float32", settings["placement"] == "offload")
        seconds = []
        for _ in range(1 + settings["steps"]):
            dist.barrier()
            received, start = _received(), time.perf_counter()
            given = token_features(student, batch.net_input, mask)
            target = teachers.members(batch.net_input, mask)
            fused_distillation_loss(given.features, given.weight, target).loss_sum.backward()
            seconds.append(time.perf_counter() - start)
            figures["received_bytes"] = _received() - received
        figures["step_seconds"] = min(seconds[1:])
        model = teachers.models[0]
        figures["projection_bytes"] = _bytes(projection_tensors(model))
        figures["body_bytes"] = _bytes(model.parameters()) - figures["projection_bytes"]

    student_step = fused_distillation_loss  # its buffers are made before memory is looked at
    given = token_features(student, batch.net_input, mask)
    student_step(given.features, given.weight, torch.zeros(2, mask.numel(), V)).loss_sum.backward()
    del given
    peak, how = peak_bytes_of(work)
    memory = teacher_memory(
        settings["placement"], M, figures["body_bytes"], figures["projection_bytes"], G
    )
    tokens = [mask.numel()] * G
    is_sharded = settings["placement"] == "shard"
    results.put(
        {
            "placement": settings["placement"],
            "overlap": settings["overlap"],
            "peak_bytes": peak,
            "measured_as": how,
            "device_weight_bytes": memory.device,
            "weight_bytes": memory.device + memory.host,
            "formula_bytes": shard_traffic(V, G, tokens)[rank] if is_sharded else 0,
            **figures,
        }
    )
    dist.barrier()
    dist.destroy_process_group()


def _received() -> int:
    """Return what this process's TCP sockets have received, as the kernel counts it."""
    total = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(number))) as one:
                if one.type == socket.SOCK_STREAM and one.family != socket.AF_UNIX:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
                    total += struct.unpack_from("Q", info, _BYTES_RECEIVED)[0]
        except OSError:  # it was closed meanwhile
            continue
    return total


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    sys.exit(main())
