"""How far a step is, read from the structured parts of what it writes."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from recipes.common.steps import Progress


def training_progress(max_update: Any) -> Progress:
    """Return a reader of fairseq's JSON log (``--log-format json``): updates done of all."""

    def read(tail: str) -> str | None:
        for line in reversed(tail.splitlines()):
            start = line.find('{"epoch"')
            if start < 0:
                continue
            try:
                record = json.loads(line[start:])
            except json.JSONDecodeError:
                continue  # the line is still being written
            updates = record.get("num_updates", record.get("valid_num_updates"))
            if updates is not None:
                return f"{updates}/{max_update} updates" if max_update else f"{updates} updates"
        return None

    return read


def decoding_progress(output: Path) -> Progress:
    """Return a reader that counts the hypotheses in the unfinished JSONL file."""

    def read(tail: str) -> str | None:
        part = output.with_name(output.name + ".part")
        try:
            with open(part, "rb") as handle:
                return f"{sum(1 for _ in handle)} sentences"
        except OSError:
            return None

    return read


def duration(seconds: float) -> str:
    """Write a duration as people do.

    Example:
        >>> duration(7.4), duration(95), duration(4000)
        ('7 s', '1:35 min', '1:06:40 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} h"


class Display:
    """Lines for what has happened and, on a terminal, one line for what is happening."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._status_width = 0

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self._clear()
        self.stream.write(text + "\n")
        self.stream.flush()

    def status(self, running: Sequence[str]) -> None:
        """Replace the status line; elsewhere than on a terminal nothing is written."""
        if not self.stream.isatty():
            return
        text = "… " + " · ".join(running)
        text = text[:118]
        self._clear()
        self.stream.write(text)
        self.stream.flush()
        self._status_width = len(text)

    def _clear(self) -> None:
        if self._status_width:
            self.stream.write("\r" + " " * self._status_width + "\r")
            self._status_width = 0
