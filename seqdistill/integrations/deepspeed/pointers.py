"""Pointers: small files under a checkpoint's name that say where the shards of its weights lie.

A pointer is an ordinary torch file without weights. It is written when its shards are complete, and
read with torch's safe loading.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from seqdistill.errors import InputError
from seqdistill.files import write_whole
from seqdistill.integrations.deepspeed.safety import refuse_unknown_globals
from seqdistill.safe_loading import load_mapped

#: The folder of shards, beside the pointers.
SHARDS = "deepspeed"
#: The pointer's entry that describes its shards.
RECORD = "deepspeed_shards"
#: fairseq's configuration. Not ``cfg``: what looks for that and does not find it lists the names of
#: the entries, of which the first says what to do.
CONFIGURATION = "configuration"
ADVICE = (
    "this file only points to the shards of DeepSpeed's engine; "
    "`seqdistill consolidate THIS.pt --output student.pt` makes a checkpoint of them"
)
FORMAT = 1


@dataclass(frozen=True)
class Shards:
    """What a pointer says about its shards.

    Attributes:
        folder: relative to the pointer's.
        stage: ZeRO's, 0 to 3.
        ranks: the processes that wrote a part each.
        precision: of the weights in the computation: float32, float16 or bfloat16.
        updates: done when they were written.
        optimizer: the class of the torch optimizer.
        files: name → bytes of every file.
        shapes: name → shape of every weight and buffer.
        order: the names of the optimizer's parameters, group by group.
        deepspeed: its version.
        seqdistill: its version.
        format: of this record.
    """

    folder: str
    stage: int
    ranks: int
    precision: str
    updates: int
    optimizer: str
    files: dict[str, int]
    shapes: dict[str, list[int]]
    order: list[list[str]]
    deepspeed: str
    seqdistill: str
    format: int = FORMAT

    def path(self, pointer: str | Path) -> Path:
        """Return the folder of the shards of a pointer."""
        return Path(pointer).resolve().parent / self.folder

    def check(self, pointer: str | Path) -> Path:
        """Return the folder of the shards after a look at every file.

        Raises:
            InputError: the folder is gone, or a file is missing, cut, or holds what shards do not.
        """
        folder = self.path(pointer)
        if not folder.is_dir():
            raise InputError(
                f"{pointer}: its shards should be in {folder}, which does not exist. A pointer and "
                f"its folder {self.folder} are moved together; go on from another checkpoint"
            )
        problems = []
        for name, size in self.files.items():
            path = folder / name
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif path.stat().st_size != size:
                problems.append(f"{name} has {path.stat().st_size} bytes instead of {size}")
        if problems:
            raise InputError(
                f"{pointer}: {len(problems)} of the {len(self.files)} shards in {folder} are bad: "
                f"{'; '.join(problems)}. Copy them again, or go on from another checkpoint"
            )
        refuse_unknown_globals(sorted(folder.glob("*.pt")))
        return folder


def write_pointer(path: str | Path, state: Mapping[str, Any], shards: Shards) -> None:
    """Write a pointer, whole or not at all.

    Args:
        path: of the pointer.
        state: the checkpoint's entries without weights and the optimiser's state; ``cfg`` is
            fairseq's configuration.
        shards: complete ones.
    """
    entries = {key: _plain(value) for key, value in state.items() if key != "cfg"}
    whole = {ADVICE: None, CONFIGURATION: _plain(state["cfg"]), RECORD: asdict(shards)} | entries
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    write_whole(Path(path), buffer.getvalue())


def read_pointer(path: str | Path) -> tuple[dict[str, Any], Shards] | None:
    """Read a pointer.

    Returns:
        Its entries (``cfg`` under that name) and its record; None for another file of torch.

    Raises:
        InputError: there is no such file, it is damaged, or of a later format.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        # Mapped: an ordinary checkpoint's weights are not read only to say that it is one.
        state = load_mapped(path)
    except Exception as error:
        if _is_readable(path):
            return None
        raise InputError(
            f"{path}: truncated or damaged ({str(error).splitlines()[0]}); go on from another "
            "checkpoint"
        ) from error
    if not isinstance(state, dict) or RECORD not in state:
        return None
    record = state.pop(RECORD)
    if record.get("format") != FORMAT:
        raise InputError(
            f"{path}: written by seqdistill {record.get('seqdistill')} in format "
            f"{record.get('format')}; this version reads format {FORMAT}"
        )
    state.pop(ADVICE, None)
    state["cfg"] = state.pop(CONFIGURATION)
    known = {field.name for field in fields(Shards)}
    return state, Shards(**{key: value for key, value in record.items() if key in known})


def _is_readable(path: str | Path) -> bool:
    """Whether a file is whole in torch's format, though it holds what safe loading refuses."""
    try:
        torch._C.PyTorchFileReader(str(path))
    except RuntimeError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Return numpy's scalars as Python's: pointers hold nothing that is not torch's or Python's."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(entry) for entry in value)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and value.size == 1:
        return value.item()
    return value
