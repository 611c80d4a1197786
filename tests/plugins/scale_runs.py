"""Trainings of seqdistill-fairseq-train, several of them in the same processes.

Starting Python with torch and fairseq takes longer than a tiny training, so what can share
processes does: ``python -m tests.plugins.scale_runs FILE`` (under torchrun, on every rank) runs the
command line of each entry of a JSON file, one after another, and keeps a log of each.
"""

import contextlib
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
_FORMAT = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"


def run_together(
    folder: Path, runs: dict[str, list[str]], processes: int = 0, stall: float = 120
) -> dict[str, str]:
    """Run trainings one after another; return the log of rank 0 of each.

    Args:
        folder: for what is written.
        runs: name → arguments of seqdistill-fairseq-train.
        processes: under torchrun; 0: one process, without.
        stall: seconds without a line in any log after which it is taken for a hang.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "runs.json"
    file.write_text(json.dumps(runs))
    command = [sys.executable]
    if processes:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        command += [str(processes)]
    command += ["-m", "tests.plugins.scale_runs", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    output = folder / "output.txt"
    with output.open("w") as handle:
        process = subprocess.Popen(
            command,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                newest = max(path.stat().st_mtime for path in folder.iterdir())
                assert time.time() - newest < stall, f"no line for {stall:g} s: a hang?"
                time.sleep(0.5)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output.read_text()[-8000:]
    return {name: (folder / f"{name}.log").read_text() for name in runs}


@contextmanager
def counted_gathers(report: Path, chunk_tokens: int = 3) -> Iterator[None]:
    """Count a training's gathers under ZeRO 3 while its fused loss walks short chunks.

    Args:
        report: JSON to write: name of a parameter → gathers, update by update.
        chunk_tokens: of the fused loss.
    """
    from fairseq_plugins.criterions import distillation
    from fairseq_plugins.scale import trainer

    build, walk = trainer.build_engine, distillation.fused_distillation_loss
    names = ("encoder.embed_tokens.weight", "decoder.output_projection.weight")
    updates: dict[str, list[int]] = {name: [] for name in names}

    def building(model: Any, cfg: Any, configuration: Any) -> Any:
        engine = build(model, cfg, configuration)
        counts = gathers_of(engine.module, set(names))

        def begin(module: Any, inputs: Any) -> None:
            for name, count in counts.items():
                updates[name].append(count)
                counts[name] = 0

        engine.module.register_forward_pre_hook(begin)
        return engine

    trainer.build_engine = building
    distillation.fused_distillation_loss = functools.partial(walk, chunk_tokens=chunk_tokens)
    try:
        yield
    finally:
        trainer.build_engine, distillation.fused_distillation_loss = build, walk
        report.write_text(json.dumps(updates))


def gathers_of(module: Any, names: set[str]) -> dict[str, int]:
    """Count, from now on, how often ZeRO 3 gathers the parameters of these names."""
    counts = dict.fromkeys(names, 0)
    by_id = {id(p): name for name, p in module.named_parameters() if name in names}
    for parameter in module.parameters():
        gather = parameter.all_gather_coalesced

        def counted(parameters: Any, *args: Any, gather: Any = gather, **kwargs: Any) -> Any:
            for one in parameters:
                if id(one) in by_id:
                    counts[by_id[id(one)]] += 1
            return gather(parameters, *args, **kwargs)

        parameter.all_gather_coalesced = counted
    return counts


def main() -> None:
    """Run the trainings of the file that is the argument."""
    from fairseq_cli import train as program

    from seqdistill.cli.fairseq_programs import train

    file = Path(sys.argv[1])
    rank = os.environ.get("RANK", "0")
    stock = program.main, program.Trainer
    for name, arguments in json.loads(file.read_text()).items():
        program.main, program.Trainer = stock
        torch.manual_seed(1)
        end = ".log" if rank == "0" else f".rank{rank}.log"
        handler = logging.FileHandler(file.parent / (name + end))
        handler.setFormatter(logging.Formatter(_FORMAT))
        logging.getLogger().addHandler(handler)
        sys.argv = ["seqdistill-fairseq-train", *arguments]
        counting = contextlib.nullcontext()
        if name.startswith("gathers"):
            counting = counted_gathers(file.parent / f"{name}.json")
        try:
            with counting:
                train()
        except SystemExit as left:
            if left.code:
                raise
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()


if __name__ == "__main__":
    main()
