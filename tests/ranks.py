"""Real processes that communicate by gloo, each test with its own meeting place and time limit."""

import multiprocessing
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def fast_processes() -> Any:
    """Return a context whose processes start fast and fresh.

    A server has imported what takes seconds, and forks; it never computes anything itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def run_ranks(action: Callable[..., Any], world: int, *arguments: Any, seconds: int = 90) -> list:
    """Run ``action(rank, *arguments)`` in processes of one job; return what each returned.

    Args:
        action: a function of a module, which the processes import.
        world: how many processes.
        arguments: the same for all.
        seconds: after which the processes are ended and the test fails.

    Returns:
        A result for each rank; an exception that it raised is its result.
    """
    context = fast_processes()
    results: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(
                target=_run,
                args=(action, rank, world, str(Path(folder) / "meet"), results, arguments),
            )
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        found: dict[int, Any] = {}
        end = time.monotonic() + seconds
        try:
            while len(found) < world:
                rank, value = results.get(timeout=max(0.1, end - time.monotonic()))
                found[rank] = value
        except queue.Empty:
            missing = sorted(set(range(world)) - found.keys())
            raise AssertionError(f"no answer from ranks {missing}; others: {found}") from None
        finally:
            for process in ranks:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()
                    process.join()
    return [found[rank] for rank in range(world)]


def _run(
    action: Callable[..., Any], rank: int, world: int, meeting: str, results: Any, arguments: tuple
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        value = action(rank, *arguments)
    except Exception as error:
        traceback.print_exc()
        results.put((rank, type(error)(str(error))))
        return  # at once, as a program would: the others must not wait for ever
    results.put((rank, value))
    dist.barrier()  # no rank leaves while another still talks to it
    dist.destroy_process_group()
