"""What every verb that runs fairseq models shares."""

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from seqdistill.errors import InputError


class _Later(ModuleType):
    """A module, or something of it, that is imported when it is called."""

    def __getattr__(self, name: str) -> "_Later":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, _, name = self.__name__.rpartition(".")
        return getattr(importlib.import_module(module), name)(*args, **kwargs)


@contextmanager
def light_imports() -> Iterator[None]:
    """Let fairseq be imported inside without what every program would wait for and none here uses.

    That is DeepSpeed, which its optimizer ``cpu_adam`` imports (without a GPU a warning says that
    there is none), and scikit-learn and scipy, for scores of its classification tasks: those are
    imported when such a score is computed. Three of the eight seconds of CPU that a program takes
    to start.
    """
    stand_ins: dict[str, Any] = {}
    if "deepspeed" not in sys.modules and not any("cpu_adam" in given for given in sys.argv):
        stand_ins["deepspeed"] = None  # an ImportError
    for package, part in (("sklearn", "sklearn.metrics"), ("scipy", "scipy.stats")):
        if package not in sys.modules:
            stand_ins |= {name: _Later(name) for name in (package, part)}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


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
            with light_imports():
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
