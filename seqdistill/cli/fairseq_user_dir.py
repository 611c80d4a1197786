"""``seqdistill fairseq-user-dir``: where the fairseq plug-ins are installed."""

import argparse
import importlib.util
from typing import Any

from seqdistill.cli.common import add_verb
from seqdistill.errors import InputError


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(
        subparsers,
        "fairseq-user-dir",
        description="Print the folder of the fairseq plug-ins, for --user-dir. Imports nothing.",
        example="fairseq-train DATA --user-dir $(seqdistill fairseq-user-dir) "
        "--task ensemble_teacher_translation …",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the folder; returns the exit status."""
    # Finding does not import: fairseq need not be installed to ask where the plug-ins are.
    spec = importlib.util.find_spec("fairseq_plugins")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise InputError(
            "the package fairseq_plugins is not installed; reinstall: "
            'pip install "seqdistill[fairseq]"'
        )
    print(folders[0])
    return 0
