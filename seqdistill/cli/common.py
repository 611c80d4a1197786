"""What verbs share: the look of their help, named paths, and files that are not overwritten."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seqdistill.errors import InputError, UsageError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the line breaks of the example at the end."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # A default of "(default: None)" or "(default: False)" tells nobody anything.
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


def add_verb(
    subparsers: Any, name: str, *, description: str, example: str
) -> argparse.ArgumentParser:
    """Add a verb whose help ends in an example.

    Args:
        subparsers: of the main parser.
        name: of the verb.
        description: what the verb's help begins with.
        example: command lines, not indented.
    """
    indented = "\n".join(f"  {row}" for row in example.strip().splitlines())
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        description=description,
        epilog=f"example:\n{indented}\n",
        formatter_class=HelpFormatter,
    )
    return parser


def add_bootstrap_options(parser: argparse.ArgumentParser) -> None:
    """Add --bootstrap and --seed."""
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples of the 95%% intervals; 0 for no intervals",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap")


def add_output_options(
    parser: argparse.ArgumentParser, *, what: str, required: bool = False
) -> None:
    """Add --output and --overwrite."""
    parser.add_argument("--output", metavar="FILE", required=required, help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing FILE")


def measures_option(text: str) -> list[str]:
    """Read a list of measures: names with commas between them."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected names of measures with commas between them")
    return names


def named_paths(values: Sequence[str], option: str) -> dict[str, str]:
    """Read ``[NAME=]PATH`` options; a path without a name is called by its file's stem.

    Raises:
        UsageError: a name or path is empty, or two have one name.

    Example:
        >>> named_paths(["news=a/b.jsonl", "out/medical.jsonl"], "--out-of-domain")
        {'news': 'a/b.jsonl', 'medical': 'out/medical.jsonl'}
    """
    paths: dict[str, str] = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator:
            name, path = Path(value).stem, value
        if not name or not path:
            raise UsageError(f"{option}: expected NAME=PATH, got {value!r}")
        if name in paths:
            raise UsageError(f"{option}: the name {name!r} stands for two files; write NAME=PATH")
        paths[name] = path
    return paths


def refuse_existing(path: str | None, *, overwrite: bool) -> None:
    """Refuse an existing output before any work is done.

    Raises:
        InputError: the file exists and may not be replaced.
    """
    if path is not None and Path(path).exists() and not overwrite:
        raise InputError(f"{path} exists already; pass --overwrite to replace it")


def positive(text: str) -> int:
    """Read a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {number}")
    return number


def show_progress(
    what: str, done: int, total: int, steps: Iterable[int], *, unit: str = "sentences"
) -> None:
    """Go through steps with a bar, where stderr is a terminal.

    Args:
        what: is being done.
        done: units that were done before.
        total: units in all.
        steps: each says how many units it has done.
        unit: what is counted.
    """
    from tqdm import tqdm

    # disable=None: no bar where stderr is no terminal.
    with tqdm(
        desc=what, total=total, initial=done, unit=f" {unit}", file=sys.stderr, disable=None
    ) as bar:
        for count in steps:
            bar.update(count)
