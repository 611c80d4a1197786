"""One step of a recipe: a command, what it reads and writes, and the stamp that says it is done.

A step is done when its stamp holds the hash of its command and of the content of everything it
reads, and what it writes is there. Change a learning rate and that training runs again, with
whatever reads its checkpoint; change nothing and nothing runs.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recipes.common.usage import Usage
from seqdistill.errors import InputError
from seqdistill.files import atomic_write

STAGES = {
    1: "data",
    2: "teachers",
    3: "targets",
    4: "distil",
    5: "decode",
    6: "uncertainty",
    7: "assess",
    8: "report",
}

STAMP_SCHEMA = "seqdistill.recipe-step/1"

USAGE = ("cpu_seconds", "peak_bytes")
"""Entries of a stamp that an interrupted step keeps when it goes on."""

HASHES = ".hashes.json"
"""In the folder of stamps: hashes of large files, which take minutes to read."""

LARGE = 1 << 30
"""Bytes from which a file's hash is kept there, as long as its size and time stay the same."""

Progress = Callable[[str], str | None]
"""Reads the tail of a step's log, says how far it is: ``120/500 updates``."""


@dataclass(frozen=True)
class Step:
    """A command of a recipe.

    Attributes:
        name: what people call it: ``decode proxy on news``.
        stage: its number in :data:`STAGES`.
        command: program and arguments; the program is looked for beside this Python.
        inputs: files it reads; a name with ``*`` stands for all files that match.
        outputs: files it must have written.
        folder: a folder that is its alone and is emptied before it starts.
        resumes: its command takes up what it left unfinished in that folder, as trainings do; the
            folder is then emptied only of another command's work.
        progress: how to read its log, if there is something to read.
    """

    name: str
    stage: int
    command: tuple[str, ...]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    folder: Path | None = None
    resumes: bool = False
    progress: Progress | None = None

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return self.name.replace(" ", "-")

    @property
    def title(self) -> str:
        """The name after its stage: ``4 distil · proxy``."""
        stage = STAGES[self.stage]
        rest = self.name.removeprefix(stage).strip()
        return f"{self.stage} {stage}{' · ' + rest if rest else ''}"

    def needs(self, other: "Step") -> bool:
        """Whether this step reads something that the other one writes."""
        return any(reads(given, output) for given in self.inputs for output in other.outputs)


def reads(given: Path, output: Path) -> bool:
    """Whether an input, which may hold ``*`` in its last part, covers an output."""
    if "*" not in given.name:
        return given == output
    return given.parent == output.parent and output.match(given.name)


class Stamps:
    """The stamps of a work folder: what ran, when, on which commit, and for how long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes = Hashes(folder / HASHES)

    def path(self, step: Step) -> Path:
        """Where a step's stamp is."""
        return self.folder / f"{step.slug}.json"

    def read(self, step: Step) -> dict[str, Any] | None:
        """Return a step's stamp; None when there is none that can be read."""
        try:
            stamp = json.loads(self.path(step).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        return stamp if isinstance(stamp, dict) and stamp.get("schema") == STAMP_SCHEMA else None

    def is_done(self, step: Step) -> bool:
        """Whether the step ran to its end with this command and these inputs."""
        stamp = self.read(step)
        if stamp is None or not stamp.get("finished"):
            return False
        if not all(path.exists() for path in step.outputs) or missing_inputs(step):
            return False
        return stamp.get("key") == step_key(step, self._hashes)

    def start(self, step: Step, facts: dict[str, Any]) -> bool:
        """Note that a step begins; returns whether it takes up unfinished work of its own."""
        key = step_key(step, self._hashes)
        stamp = self.read(step)
        is_same = stamp is not None and stamp.get("key") == key and not stamp.get("finished")
        resumes = step.resumes and is_same
        if step.folder is not None:
            if not resumes:
                shutil.rmtree(step.folder, ignore_errors=True)
            step.folder.mkdir(parents=True, exist_ok=True)
        for path in step.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
        used = {k: stamp[k] for k in USAGE if k in stamp} if resumes and stamp else {}
        self._write(step, {"key": key, "finished": False, "resumed": resumes, **used, **facts})
        return resumes

    def add_usage(self, step: Step, usage: Usage | None) -> None:
        """Note what a step's process has used, beside what earlier parts of it had."""
        stamp = self.read(step)
        if usage is not None and stamp is not None:
            self._write(step, {**stamp, **usage.after(stamp)})

    def finish(self, step: Step, seconds: float) -> None:
        """Note that a step is done.

        Raises:
            InputError: something it should have written is not there.
        """
        missing = [str(path) for path in step.outputs if not path.exists()]
        if missing:
            raise InputError(f"{step.name} ended well but did not write {', '.join(missing)}")
        stamp = self.read(step) or {}
        self._write(step, {**stamp, "finished": True, "seconds": round(seconds, 1)})

    def _write(self, step: Step, content: dict[str, Any]) -> None:
        head = {"schema": STAMP_SCHEMA, "name": step.name, "stage": step.stage}
        with atomic_write(self.path(step)) as handle:
            json.dump({**head, "command": list(step.command), **content}, handle, indent=2)


class Hashes:
    """Hashes of files; those of large ones are remembered from one run to the next.

    Args:
        path: where they are remembered.
        large: bytes from which they are.
    """

    def __init__(self, path: Path, large: int = LARGE) -> None:
        self.path = path
        self.large = large

    def of(self, file: Path) -> str:
        """Return the SHA-256 of a file."""
        status = file.stat()
        if status.st_size < self.large:
            return _file_hash(file, status.st_size, status.st_mtime_ns)
        known, name = self._read(), str(file)
        found = known.get(name, {})
        same = {"size": status.st_size, "modified": status.st_mtime_ns}
        if {key: found.get(key) for key in same} != same:
            sha256 = _file_hash(file, status.st_size, status.st_mtime_ns)
            found = known[name] = {**same, "sha256": sha256}
            with atomic_write(self.path) as handle:
                json.dump(known, handle, indent=2)
        return str(found["sha256"])

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return known if isinstance(known, dict) else {}


def step_key(step: Step, hashes: Hashes) -> str:
    """Hash a step's command and the content of what it reads."""
    digest = hashlib.sha256("\0".join(step.command).encode())
    for path in input_files(step):
        digest.update(f"\0{path}\0{hashes.of(path)}".encode())
    return digest.hexdigest()


def input_files(step: Step) -> Iterator[Path]:
    """All files that a step reads, in a fixed order."""
    for given in step.inputs:
        yield from sorted(given.parent.glob(given.name)) if "*" in given.name else [given]


def missing_inputs(step: Step) -> list[Path]:
    """Return the inputs that are not there (yet)."""
    return [
        given
        for given in step.inputs
        if not (any(given.parent.glob(given.name)) if "*" in given.name else given.is_file())
    ]


def explain_missing(step: Step, path: Path, plan: Sequence[Step]) -> InputError:
    """Return the error for an input that is not there, naming the stage that makes it."""
    maker = next((other for other in plan if any(reads(path, o) for o in other.outputs)), None)
    if maker is None:
        return InputError(f"{step.name} needs {path}, and there is no such file")
    return InputError(
        f"{step.name} needs {path}, which stage {maker.stage} ({STAGES[maker.stage]}) writes; "
        f"run it first: --stages {maker.stage}-{step.stage}"
    )


@cache
def _file_hash(path: Path, size: int, modified: int) -> str:
    """Hash a file; size and time are there so that a changed file is read again."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
