"""A JSON of ``--deepspeed`` beside fairseq's options: read it, and compare the two."""

import json
import math
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError

#: A value that says: as fairseq has it.
AUTO = "auto"


class Agreement:
    """The JSON's values beside fairseq's.

    Args:
        path: the JSON's, for messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def agreed(self, key: str, given: Any, option: str, fairseqs: Any) -> Any:
        """Return fairseq's value, if the JSON says the same, ``"auto"`` or nothing.

        Args:
            key: dotted, for the message.
            given: the JSON's; None if it says nothing.
            option: fairseq's.
            fairseqs: its value.

        Raises:
            InputError: the two contradict each other.
        """
        if given is None or given == AUTO or _same(given, fairseqs):
            return fairseqs
        raise InputError(
            f"{self.path}: {key!r} is {given!r}, but fairseq's {option} is {fairseqs!r}; make "
            f'them the same, or write "auto" in the JSON'
        )


def read_json(path: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: it is missing, not JSON, not an object, or says a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"--deepspeed {path}: no such file") from error

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{path}: the key {name!r} is there twice")
        return dict(pairs)

    try:
        values = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(values).__name__}")
    return values


def _same(given: Any, fairseqs: Any) -> bool:
    if isinstance(given, bool) or isinstance(fairseqs, bool):
        return given is fairseqs
    if isinstance(given, int | float) and isinstance(fairseqs, int | float):
        return math.isclose(given, fairseqs, rel_tol=1e-9)
    if isinstance(given, list | tuple) and isinstance(fairseqs, list | tuple):
        pairs = zip(given, fairseqs, strict=False)
        return len(given) == len(fairseqs) and all(_same(a, b) for a, b in pairs)
    return bool(given == fairseqs)
