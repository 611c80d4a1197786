"""Plain records of settings and surroundings, and how two of them differ."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def differences(expected: Any, found: Any, name: str = "", holder: str = "the store") -> list[str]:
    """Say in which parts two nested records differ; names of files are not compared.

    Args:
        expected: what the holder has: mappings, sequences, plain values.
        found: what there is now.
        name: of the whole, empty at the top.
        holder: who has the expected one.

    Example:
        >>> differences({"settings": {"top_k": 128}}, {"settings": {"top_k": 64}})
        ['settings top_k: the store has 128, here it is 64']
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        keys = [*expected, *(key for key in found if key not in expected)]
        parts: Iterable[tuple[str, Any, Any]] = (
            (f"{name} {key}", expected.get(key), found.get(key)) for key in keys if key != "name"
        )
        label = expected.get("name")
        return [
            line if label is None else f"{line} ({label})"
            for part, a, b in parts
            for line in differences(a, b, part.strip(), holder)
        ]
    if _is_list(expected) and _is_list(found):
        if len(expected) != len(found):
            return [f"{name}: {holder} has {len(expected)}, here there are {len(found)}"]
        pairs = enumerate(zip(expected, found, strict=True), start=1)
        return [line for n, (a, b) in pairs for line in differences(a, b, f"{name} {n}", holder)]
    if expected == found:
        return []
    return [f"{name}: {holder} has {_short(expected)}, here it is {_short(found)}"]


def describe_environment(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Return what made a store: to know, not to compare."""
    import numpy
    import torch

    import seqdistill

    if command is None:
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "command": list(command),
        "seqdistill": seqdistill.__version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    is_digest = isinstance(value, str) and len(value) == 64
    return f"{value[:12]}…" if is_digest else "nothing" if value is None else str(value)
