"""What every verb that runs fairseq models shares."""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from seqdistill.errors import InputError


@contextmanager
def deepspeed_hidden() -> Iterator[None]:
    """Let fairseq be imported inside without DeepSpeed, which its optimizer ``cpu_adam`` imports.

    That takes a second of every program, and without a GPU a warning says that there is none.
    """
    if "deepspeed" in sys.modules or any("cpu_adam" in argument for argument in sys.argv):
        yield
        return
    sys.modules["deepspeed"] = None  # type: ignore[assignment]  # an ImportError, until deleted
    try:
        yield
    finally:
        del sys.modules["deepspeed"]


@contextmanager
def fairseq_at_hand() -> Iterator[None]:
    """Let fairseq be imported and used inside, without what it says about itself.

    Raises:
        InputError: it is not installed.
    """
    for name in ("fairseq", "fairseq_plugins", "hydra"):  # chatty already while they are imported
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # fairseq uses what torch and Python have deprecated; nobody who runs a verb can mend it.
        warnings.simplefilter("ignore")
        try:
            with deepspeed_hidden():
                import fairseq  # noqa: F401
        except ImportError as error:
            raise InputError(
                f'running models needs fairseq: pip install "seqdistill[fairseq]" ({error})'
            ) from error
        yield


def add_language_options(parser: argparse.ArgumentParser) -> None:
    """Add the languages of binarised data."""
    parser.add_argument(
        "-s", "--source-lang", metavar="SOURCE", help="source language (default: DATA's)"
    )
    parser.add_argument(
        "-t", "--target-lang", metavar="TARGET", help="target language (default: DATA's)"
    )
