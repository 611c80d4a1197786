"""Trainings of several processes: fairseq's real program, a process a rank, gloo between them."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.ranks import fast_processes


@dataclass(frozen=True)
class Outcome:
    """How a process of a job ended.

    Attributes:
        code: its exit status.
        output: what it printed on either stream.
    """

    code: int | None
    output: str


def run_job(
    arguments: Sequence[str],
    world: int,
    folder: Path,
    *,
    seconds: int = 240,
    forbidden: Mapping[int, Sequence[Path]] | None = None,
    chunk_tokens: int | None = None,
) -> list[Outcome]:
    """Run ``seqdistill-fairseq-train`` in processes of one job.

    Args:
        arguments: of the program, the same for all ranks.
        world: how many processes; with 1 nothing is distributed.
        folder: for their output.
        seconds: after which those that still run are killed; their code is negative.
        forbidden: files that a rank must not open: one that does ends with an error.
        chunk_tokens: tokens of a chunk of the fused loss, instead of the thousands that these tiny
            vocabularies would have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = fast_processes()
    processes, logs = [], []
    meeting = folder / f"meet{time.monotonic_ns()}"
    for rank in range(world):
        given = [*arguments]
        if world > 1:
            given += ["--distributed-world-size", str(world), "--distributed-rank", str(rank)]
            given += ["--distributed-no-spawn", "--distributed-backend", "gloo"]
            given += ["--distributed-init-method", f"file://{meeting}"]
        logs.append(folder / f"rank{rank}.log")
        closed = [str(path) for path in (forbidden or {}).get(rank, ())]
        process: Any = context.Process(target=_train, args=(given, logs[-1], closed, chunk_tokens))
        process.start()
        processes.append(process)
    end = time.monotonic() + seconds
    for process in processes:
        process.join(timeout=max(0.1, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [
        Outcome(process.exitcode, log.read_text(errors="replace"))
        for process, log in zip(processes, logs, strict=True)
    ]


def _train(
    arguments: Sequence[str], log: Path, closed: Sequence[str], chunk_tokens: int | None
) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    torch.set_num_threads(1)
    if closed:

        def refuse(event: str, details: tuple) -> None:
            if event == "open" and str(details[0]) in closed:
                raise PermissionError(f"this rank must not open {details[0]}")

        sys.addaudithook(refuse)
    if chunk_tokens is not None:
        from seqdistill.kernels import chunks

        chunks._CPU_ELEMENTS, chunks._CPU_TOKENS = 1, chunk_tokens
    sys.argv = ["seqdistill-fairseq-train", *arguments]
    from seqdistill.cli.fairseq_programs import train

    train()
