"""Runs the steps of a plan: what is done is skipped, what was interrupted goes on."""

import datetime
import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from recipes.common.progress import Display, duration
from recipes.common.recipe import REPOSITORY
from recipes.common.steps import Stamps, Step, explain_missing, missing_inputs
from recipes.common.usage import EndingProcess, MeasuredProcess
from recipes.common.warm import Starter, can_start
from seqdistill.errors import InputError

TAIL_LINES = 20
"""Lines of a log that a failure shows."""

_TAIL_BYTES = 16_384
_POLL_SECONDS = 0.1
_TERMINATE_SECONDS = 10.0


class StepError(Exception):
    """A step failed; the message ends with the tail of its log and the log's path.

    Args:
        step: which.
        message: what people are told.
    """

    def __init__(self, step: Step, message: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass
class _Running:
    step: Step
    process: EndingProcess
    log: IO[bytes]
    log_path: Path
    started: float


class Runner:
    """Runs chosen steps of a plan, several at once where they do not depend on each other.

    Args:
        plan: all steps of the recipe, in order.
        root: the work folder; stamps and logs go there.
        jobs: how many steps may run at once.
        threads: CPU threads of each step.
        display: where progress is shown.
        commit: what the checkout is at; goes into the stamps.
        numbered_logs: names of logs begin with the step's place in the plan; without, plans that
            grow keep the names.
        warm: fork programs of this project from a process that has done their imports, where that
            can be done; their usage is then without the start of Python.

    Attributes:
        failures: of the last :meth:`run` that was told to keep going.
    """

    def __init__(
        self,
        plan: Sequence[Step],
        root: Path,
        *,
        jobs: int = 1,
        threads: int = 1,
        display: Display | None = None,
        commit: str | None = None,
        numbered_logs: bool = True,
        warm: bool = True,
    ) -> None:
        self.plan = plan
        self.root = root
        self.stamps = Stamps(root / "stamps")
        self.jobs = jobs
        self.threads = threads
        self.display = display or Display()
        self.commit = commit
        self.numbered_logs = numbered_logs
        self.failures: list[StepError] = []
        self.warm = warm
        self._running: list[_Running] = []
        self._starter: Starter | None = None
        self._will_fork = False

    def run(self, chosen: Sequence[Step], *, force: bool = False, keep_going: bool = False) -> int:
        """Run the chosen steps; returns how many had to run.

        Args:
            chosen: steps of the plan, in its order.
            force: run them also where they are done.
            keep_going: a failure ends only what reads what the failed step should have written;
                it is said at once, and kept in :attr:`failures`.

        Raises:
            StepError: a command failed; steps that ran beside it were stopped and can resume.
            InputError: something a step reads is not there and is not made by a chosen step.
        """
        if force:
            for one in chosen:
                self.stamps.path(one).unlink(missing_ok=True)
        pending, ran = list(chosen), 0
        self.failures = []
        self._will_fork = self.warm and any(can_start(resolve(step.command)) for step in chosen)
        try:
            while pending or self._running:
                try:
                    while len(self._running) < self.jobs and (step := self._next(pending)):
                        pending.remove(step)
                        ran += self._start(step)
                    self._wait()
                except StepError as error:
                    if not keep_going:
                        raise
                    self.failures.append(error)
                    self.display.line(f"! {error}")
                    pending = self._without_readers(pending, error.step)
        finally:
            self._stop()
            if self._starter is not None:
                self._starter.close()
                self._starter = None
        return ran

    def log_path(self, step: Step) -> Path:
        """Where a step's output goes: ``logs/04-teacher-1.log``."""
        number = f"{self.plan.index(step) + 1:02}-" if self.numbered_logs else ""
        return self.root / "logs" / f"{number}{step.slug}.log"

    def _next(self, pending: Sequence[Step]) -> Step | None:
        """The first step that waits for nothing that still has to be written."""
        unfinished = [*pending, *(running.step for running in self._running)]
        for step in pending:
            if not any(step.needs(other) for other in unfinished if other is not step):
                return step
        return None

    def _without_readers(self, pending: Sequence[Step], failed: Step) -> list[Step]:
        """Return the steps that do not wait for what a failed one should have written."""
        lost, kept = [failed], []
        for step in pending:  # in the plan's order: whoever reads comes after whoever writes
            if any(step.needs(other) for other in lost):
                lost.append(step)
            else:
                kept.append(step)
        if lost[1:]:
            names = ", ".join(step.name for step in lost[1:])
            self.display.line(f"! left out, since {failed.name} failed: {names}")
        return kept

    def _start(self, step: Step) -> bool:
        """Start a step, unless it is done; returns whether it was started."""
        missing = missing_inputs(step)
        if missing:
            raise explain_missing(step, missing[0], self.plan)
        if self.stamps.is_done(step):
            self.display.line(f"- {step.title}: done before, skipped")
            return False
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        resumes = self.stamps.start(step, {"started": now, "commit": self.commit})
        log_path = self.log_path(step)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        if self._will_fork:  # also before the first such program: it imports beside other steps
            self._warm_up()
        log = open(log_path, "ab" if resumes else "wb")  # noqa: SIM115 (open while it runs)
        log.write(f"$ {shlex.join(step.command)}\n".encode())
        log.flush()
        try:
            process = self._process(resolve(step.command), log)
        except OSError as error:
            log.close()
            message = f"{step.name}: cannot run {step.command[0]}: {error}"
            raise StepError(step, message) from error
        if resumes:
            self.display.line(f"> {step.title}: goes on where it was interrupted")
        self._running.append(_Running(step, process, log, log_path, time.monotonic()))
        return True

    def _warm_up(self) -> Starter:
        """Return what programs are forked from; it is started where it does not run yet."""
        if self._starter is None:
            with open(self.root / "logs" / "starter.log", "wb") as log:
                self._starter = Starter(self._environment(), log)
        return self._starter

    def _process(self, command: Sequence[str], log: IO[bytes]) -> EndingProcess:
        """Start a command whose streams go to a log."""
        environment = self._environment()
        if self.warm and can_start(command):
            out = log.fileno()
            started = self._warm_up().start(
                command, stdout=out, stderr=out, folder=REPOSITORY, environment=environment
            )
            if started is not None:
                return started
            # Its log has the reason; every program can do without it.
            self.warm = self._will_fork = False
        return MeasuredProcess(
            subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=REPOSITORY,
                env=environment,
            )
        )

    def _wait(self) -> None:
        """Wait until a step ends, showing how far the running ones are."""
        while self._running:
            for running in self._running:
                code = running.process.poll()
                if code is not None:
                    self._running.remove(running)
                    running.log.close()
                    self._end(running, code)
                    return
            self.display.status([self._status(running) for running in self._running])
            time.sleep(_POLL_SECONDS)

    def _end(self, running: _Running, code: int) -> None:
        step, seconds = running.step, time.monotonic() - running.started
        self.stamps.add_usage(step, running.process.usage)
        if code == 0:
            try:
                self.stamps.finish(step, seconds)
            except InputError as error:
                message = _failure(f"{step.name}: {error}", running.log_path)
                raise StepError(step, message) from error
            self.display.line(f"+ {step.title}: {duration(seconds)}")
            return
        ending = f"failed with exit status {code}" if code > 0 else f"was ended by signal {-code}"
        message = f"{step.name} {ending} after {duration(seconds)}"
        raise StepError(step, _failure(message, running.log_path))

    def _status(self, running: _Running) -> str:
        elapsed = duration(time.monotonic() - running.started)
        progress = running.step.progress
        done = progress(_tail(running.log_path)) if progress else None
        return f"{running.step.name} {done + ', ' if done else ''}{elapsed}"

    def _environment(self) -> dict[str, str]:
        # The command lines that belong to this Python come first, activated or not.
        programs = str(Path(sys.executable).parent)
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, **threads, "PATH": path, "PYTHONUNBUFFERED": "1"}

    def _stop(self) -> None:
        """Stop what still runs: a step failed or the user interrupted."""
        for running in self._running:
            running.process.ask_to_end()
        for running in self._running:
            running.process.end(_TERMINATE_SECONDS)
            self.stamps.add_usage(running.step, running.process.usage)
            running.log.close()
            self.display.line(f"! {running.step.title}: stopped; the next run takes it up again")
        self._running.clear()


def resolve(command: Sequence[str]) -> list[str]:
    """Return a command with ``python`` as this Python and programs from beside it."""
    program, *arguments = command
    if program == "python":
        return [sys.executable, *arguments]
    beside = Path(sys.executable).parent / program  # the program itself where its path is whole
    return [str(beside) if beside.exists() else program, *arguments]


@contextmanager
def only_one_run(root: Path) -> Iterator[None]:
    """Hold a work folder's lock.

    Raises:
        InputError: another run holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another run is at work in {root}; wait for it or choose another --work-dir"
            ) from error
        yield


def _failure(message: str, log_path: Path) -> str:
    lines = _tail(log_path).splitlines()[-TAIL_LINES:]
    return "\n".join([message, *(f"  | {line}" for line in lines), f"whole log: {log_path}"])


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - _TAIL_BYTES))
            return handle.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
