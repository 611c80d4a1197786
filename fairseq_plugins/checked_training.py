"""``seqdistill-fairseq-train``: fairseq's own program, which first looks whether teachers fit."""

import functools
from collections.abc import Callable
from typing import Any

from fairseq_cli import train as program

from fairseq_plugins.fit import check_fit


def run() -> None:
    """Run fairseq-train; the arguments are those of the process.

    Raises:
        InputError: teachers do not fit the device, or what fairseq's program raises.
    """
    # Looked up by fairseq when the configuration is known, also for processes that it spawns.
    program.main = functools.partial(checked, main=program.main)
    program.cli_main()


def checked(cfg: Any, main: Callable[[Any], None]) -> None:
    """Train in this process, unless it is known beforehand that memory will not do."""
    check_fit(cfg)
    main(cfg)
