"""What a process says when the job ends before its time: who has gone, and where to go on.

The launcher (torchrun, the deepspeed launcher, fairseq's own spawn) ends the others when one
process has ended, and so does the broken connection. Neither knows the checkpoints.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from seqdistill.errors import InputError
from seqdistill.integrations.deepspeed.pointers import read_pointer

logger = logging.getLogger(__name__)

#: Seconds for which a process looks for another that has gone; its memory is freed first.
PATIENCE = 5.0
#: Minutes after which a rank that does not answer is given up; DeepSpeed's variable changes it.
MINUTES = 10
_OF_CONNECTIONS = ("gloo", "NCCL", "Connection", "connection", "Timed out", "timed out")


@contextmanager
def explained(save_dir: str) -> Iterator[None]:
    """Run a training in this process; say how to go on if it ends before its time.

    Args:
        save_dir: of its checkpoints.
    """
    # torch has it since 2.14; before, its own times hold (NCCL 10 minutes, gloo 30).
    if distributed.is_initialized() and hasattr(distributed, "set_timeout"):
        minutes = float(os.environ.get("DEEPSPEED_TIMEOUT", MINUTES))
        distributed.set_timeout(timedelta(minutes=minutes))
    watch = _Watch(save_dir, processes())
    with watch.listening():
        try:
            yield
        except InputError:
            raise  # says itself what is wrong
        except Exception as error:
            watch.report(error)
            raise


def processes() -> list[tuple[str, int]]:
    """Return host and process number of every rank."""
    own = (socket.gethostname(), os.getpid())
    if not distributed.is_initialized():
        return [own]
    everyone: list[tuple[str, int]] = [own] * distributed.get_world_size()
    distributed.all_gather_object(everyone, own)
    return everyone


class _Watch:
    def __init__(self, save_dir: str, everyone: list[tuple[str, int]]) -> None:
        self.save_dir = save_dir
        self.everyone = everyone
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self._once = threading.Lock()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Report when the launcher ends this process, even while it waits for a collective.

        Python runs its handlers between two steps of the main thread, which may wait for a GPU or
        another process; the number of a signal is written to a pipe at once.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
        descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            signal.signal(signal.SIGTERM, handler)
            os.close(writer)  # the thread reads an end, and ends

    def _listen(self, reader: int) -> None:
        with open(reader, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] == signal.SIGTERM:
                    self.report(None)
                    os._exit(128 + signal.SIGTERM)

    def report(self, error: Exception | None) -> None:
        """Say once what happened and where to go on; None: the launcher ends this process."""
        if not self._once.acquire(blocking=False):
            time.sleep(PATIENCE)  # the other thread is about to end the process
            return
        of_connection = error is None or _is_of_connection(error)
        gone = self._wait_for_gone() if of_connection else []
        if gone:
            ranks = ", ".join(f"rank {rank} (process {self.everyone[rank][1]})" for rank in gone)
            what = f"{ranks} has ended before its time" if len(gone) == 1 else f"{ranks} have ended"
        elif error is None:
            what = f"rank {self.rank} is ended by its launcher (SIGTERM)"
        elif of_connection:
            what = (
                f"rank {self.rank} lost the connection to the others, and all ranks on this "
                "machine run: see the output of the other machines"
            )
        else:
            what = f"rank {self.rank} failed: {type(error).__name__}: {error}"
        logger.error(f"{what}. The job ends. {advice(self.save_dir)}")
        if of_connection:
            time.sleep(1.0)  # so that the others on this machine do not find this one gone

    def _wait_for_gone(self) -> list[int]:
        end = time.monotonic() + PATIENCE
        host = self.everyone[self.rank][0]
        local = [rank for rank, (name, _) in enumerate(self.everyone) if name == host]
        while time.monotonic() < end:
            gone = [rank for rank in local if not _runs(self.everyone[rank][1])]
            if gone:
                return gone
            time.sleep(0.1)
        return []


def _is_of_connection(error: Exception) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error) for w in _OF_CONNECTIONS)


def _runs(process: int) -> bool:
    """Whether a process of this machine is there and has not ended (a zombie has)."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # gone just now, or no Linux
        return Path("/proc/self").exists() is False
    return state != "Z"


def advice(save_dir: str) -> str:
    """Say which whole checkpoint there is to go on from.

    Args:
        save_dir: fairseq's ``--save-dir``.
    """
    best: tuple[int, bool, Path] | None = None
    for path in Path(save_dir).glob("*.pt"):
        try:
            found = read_pointer(path)
            if found is None:
                continue
            found[1].check(path)
        except InputError:
            continue
        candidate = (found[1].updates, path.name == "checkpoint_last.pt", path)
        best = candidate if best is None else max(best, candidate)
    if best is None:
        return f"There is no whole checkpoint in {save_dir} yet: the same command starts anew"
    updates, is_last, path = best
    option = "" if is_last else f" with --restore-file {path}"
    return f"{path} is whole (update {updates}): the same command{option} goes on from there"
