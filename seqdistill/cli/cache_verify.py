"""``seqdistill cache-verify``: is a target store what was written?"""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from seqdistill.cli.common import add_verb
from seqdistill.targets.store.reader import read_manifest, store_files
from seqdistill.targets.store.verify import verify

_DESCRIPTION = """\
Compare every file of a target store with the size and the SHA-256 that were written, and find the
sentences of a bad shard that are damaged.

Prints a line for each bad file and sentence, and ends with 1 if there is any. To repair a store,
delete the bad files and repeat the command that made it (cache-info shows it): it makes these files
again and keeps the others."""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(
        subparsers,
        "cache-verify",
        description=_DESCRIPTION,
        example="seqdistill cache-verify store",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the store")


def run(args: argparse.Namespace) -> int:
    """Verify and print; returns the exit status."""
    _, manifest = read_manifest(Path(args.folder))
    files = store_files(manifest)
    bad = 0
    bar = tqdm(verify(args.folder), total=len(files), unit=" files", file=sys.stderr, disable=None)
    for _, problems in bar:
        bad += bool(problems)
        for problem in problems:
            print(problem)
    if bad:
        print(f"{args.folder}: {bad} of {len(files)} files are bad", file=sys.stderr)
        return 1
    print(f"{args.folder}: {len(files)} files, all as they were written", file=sys.stderr)
    return 0
