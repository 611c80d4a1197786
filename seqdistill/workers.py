"""Work in pieces over several processes, each with what it needs."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from seqdistill.errors import InputError


class Work(Protocol):
    """Work that can be sent to another process (pickled) and set up there."""

    def prepare(self) -> Callable[[int], Iterable[int]]:
        """Load what the work needs; return what does a unit.

        That function takes a unit's number, does it, and yields how many items (sentences,
        utterances) it has done since it yielded last.
        """
        ...


_NUMBER = 0
"""Of this process among the workers."""


def worker_number() -> int:
    """Return this process's number among the workers, from 0; 0 where there is only one.

    Work that runs on GPUs chooses its own by it.
    """
    return _NUMBER


def do_units(work: Work, units: Sequence[int], workers: int, threads: int = 1) -> Iterator[int]:
    """Do all units; yield numbers of items as they are done.

    Args:
        work: what is to be done; one worker does it in this process, several in their own.
        units: numbers of units, in the order in which they are handed out.
        workers: processes.
        threads: torch's threads in each of several processes.

    Raises:
        InputError: the work raised one, or a worker was killed. Finished units stay finished.
        RuntimeError: the work raised something else; with the worker's traceback.
    """
    if not units:
        return
    if workers == 1:
        do = work.prepare()
        for unit in units:
            yield from do(unit)
        return
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, Any] = {}
    waiting = list(reversed(units))
    pickled = pickle.dumps(work)
    try:
        for number in range(min(workers, len(units))):
            ours, theirs = context.Pipe()
            given = (theirs, pickled, threads, number)
            process = context.Process(target=_worker, args=given, daemon=True)
            process.start()
            theirs.close()  # so that ours ends when the process does
            processes[ours] = process
        while processes:
            ready: list[Any] = multiprocessing.connection.wait(list(processes))
            for ours in ready:
                yield from _answer(ours, processes, waiting)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _answer(
    ours: Connection, processes: dict[Connection, Any], waiting: list[int]
) -> Iterator[int]:
    """Take one message of a worker and answer it."""
    process = processes[ours]
    try:
        kind, value = ours.recv()
    except EOFError as error:
        process.join()
        raise InputError(
            f"a worker ended without a word (exit status {process.exitcode}; -9 is often a lack of "
            "memory: use fewer --workers). What is finished is kept; repeat the command to go on"
        ) from error
    if kind == "done":
        yield value
    elif kind == "input error":
        raise InputError(value)
    elif kind == "error":
        raise RuntimeError(f"a worker failed:\n{value}")
    elif waiting:
        ours.send(waiting.pop())
    else:
        ours.send(None)
        del processes[ours]
        process.join()


def _worker(parent: Connection, pickled: bytes, threads: int, number: int) -> None:
    """Ask for units until there are none; ends, too, when the parent does."""
    global _NUMBER
    _NUMBER = number
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    try:
        import torch

        torch.set_num_threads(threads)
        # What is said while libraries and models are loaded, the parent's user has seen already.
        logging.disable(logging.INFO)
        warnings.simplefilter("ignore")
        work: Work = pickle.loads(pickled)
        do = work.prepare()
        while True:
            parent.send(("next", None))
            unit = parent.recv()
            if unit is None:
                return
            for done in do(unit):
                parent.send(("done", done))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        os._exit(1)  # the parent was killed; a new one may be at work already
    except InputError as error:
        parent.send(("input error", str(error)))
    except BaseException:
        parent.send(("error", traceback.format_exc()))
