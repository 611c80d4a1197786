"""``seqdistill cache-states``: teachers' hidden states of a training set, compressed and stored."""

import argparse
import json
import sys
from typing import Any

from seqdistill.cli.common import add_verb, positive, show_progress
from seqdistill.cli.store_options import (
    add_place_options,
    add_running_options,
    shared_options,
)
from seqdistill.cli.with_fairseq import fairseq_at_hand
from seqdistill.targets.store.describe import size_text

_DESCRIPTION = """\
Run fairseq teachers once over a training set and store their hidden states, compressed.

Students then learn from them beside any distillation (--state-store DIR --state-weight W) and load
no teacher. A store is small in three ways: depth (--layers), length (--positions of a sentence) and
width (--width numbers of a state, in the directions in which the layer's states vary most).

A killed command goes on where it was when it is repeated."""

_EXAMPLE = """\
seqdistill cache-states data-bin --path teacher.pt --output states
seqdistill cache-states data-bin --path 'teachers/*.pt' --layers encoder.last,decoder.3 \\
    --width 32 --positions 8 --output states"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "cache-states", description=_DESCRIPTION, example=_EXAMPLE)
    add_place_options(
        parser,
        "--path",
        paths_help="one checkpoint or several of one size, with colons between them, or a quoted "
        "glob",
    )
    group = parser.add_argument_group("content")
    group.add_argument(
        "--layers",
        default="encoder.last,decoder.last",
        metavar="NAMES",
        help="what comes out of which layers: encoder.2,decoder.last",
    )
    group.add_argument("--width", type=positive, default=64, metavar="W", help="numbers of a state")
    group.add_argument(
        "--positions",
        type=positive,
        metavar="K",
        help="of a sentence, on each side (default: all)",
    )
    group.add_argument(
        "--choose",
        choices=("rare", "even"),
        default="rare",
        help="which positions: the pieces that the data have least often, or evenly spread",
    )
    group.add_argument(
        "--fit-sentences",
        type=positive,
        default=1000,
        metavar="N",
        help="sentences that the directions are found from",
    )
    group.add_argument("--seed", type=int, default=1, help="of the choice of those sentences")
    add_running_options(parser, max_tokens="4096")


def run(args: argparse.Namespace) -> int:
    """Make the store; returns the exit status."""
    with fairseq_at_hand():
        from fairseq_plugins.state_cache.run import StateCaching, StateOptions

        caching = StateCaching(
            StateOptions(
                **shared_options(args),
                paths=args.path,
                layers=args.layers,
                width=args.width,
                positions=args.positions,
                choice=args.choose,
                fit_sentences=args.fit_sentences,
                seed=args.seed,
            )
        )
        if args.dry_run:
            print(json.dumps(caching.survey(), indent=1, ensure_ascii=False))
            return 0
        manifest = caching.run(show_progress)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    shares = ", ".join(f"{100 * s:.1f} % of {name}" for name, s in manifest["explained"].items())
    print(
        f"{args.output}: {manifest['states']:,} states of {manifest['data']['sentences']:,} "
        f"sentences, {size_text(size)}; variance kept: {shares}",
        file=sys.stderr,
    )
    return 0
