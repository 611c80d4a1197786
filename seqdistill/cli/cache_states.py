"""``seqdistill cache-states``: teachers' hidden states of a training set, compressed and stored."""

import argparse
import json
import sys
from typing import Any

from seqdistill.cli.common import add_verb, positive, show_progress
from seqdistill.cli.with_fairseq import add_language_options, fairseq_at_hand
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
    parser.add_argument("data", metavar="DATA", help="folder that fairseq-preprocess made")
    parser.add_argument(
        "--path",
        required=True,
        metavar="A.pt:B.pt…",
        help="one checkpoint or several of one size, with colons between them, or a quoted glob",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the store")
    add_language_options(parser)
    parser.add_argument("--subset", default="train", metavar="NAME", help="of DATA")
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
    group = parser.add_argument_group("running")
    group.add_argument("--workers", type=positive, default=1, metavar="N", help="processes")
    group.add_argument(
        "--max-tokens", type=positive, default=4096, metavar="N", help="tokens of a batch"
    )
    group.add_argument(
        "--shard-sentences",
        type=positive,
        default=2048,
        metavar="N",
        help="sentences of a shard: what a killed worker has to do again",
    )
    group.add_argument("--cpu", action="store_true", help="stay on the CPU")
    group.add_argument("--overwrite", action="store_true", help="begin a store anew that DIR holds")
    group.add_argument(
        "--dry-run", action="store_true", help="print what would be done as JSON, and do nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Make the store; returns the exit status."""
    with fairseq_at_hand():
        from fairseq_plugins.state_cache.run import StateCaching, StateOptions

        caching = StateCaching(
            StateOptions(
                data=args.data,
                paths=args.path,
                output=args.output,
                source=args.source_lang,
                target=args.target_lang,
                subset=args.subset,
                layers=args.layers,
                width=args.width,
                positions=args.positions,
                choice=args.choose,
                fit_sentences=args.fit_sentences,
                seed=args.seed,
                shard_sentences=args.shard_sentences,
                max_tokens=args.max_tokens,
                workers=args.workers,
                use_cpu=args.cpu,
                overwrite=args.overwrite,
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
