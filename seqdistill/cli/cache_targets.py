"""``seqdistill cache-targets``: the ensemble's targets of a training set, stored once."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from seqdistill.cli.common import add_verb, positive, show_progress
from seqdistill.cli.store_options import (
    add_place_options,
    add_running_options,
    shared_options,
)
from seqdistill.cli.with_fairseq import fairseq_at_hand
from seqdistill.targets.store.describe import size_text

if TYPE_CHECKING:
    from fairseq_plugins.target_cache.run import CacheOptions

_DESCRIPTION = """\
Run an ensemble of fairseq teachers once over a training set and store its targets.

Students then train from the store (--task ensemble_teacher_translation --target-store DIR) and load
no teacher. Of each token the store has the likeliest pieces with their mean probabilities, the mass
of all others, and the uncertainties of the whole distribution; --top-k or --tail-mass say how many
pieces. The targets belong to the data's references, or to the ensemble's own outputs (--targets),
which are decoded first and become the data folder DIR/data that students train on.

A killed command goes on where it was when it is repeated; a deleted shard is made again by it."""

_EXAMPLE = """\
seqdistill cache-targets data-bin --ensemble-paths 'teachers/*.pt' --output store
seqdistill cache-targets data-bin --ensemble-paths a.pt:b.pt:c.pt --output store \\
    --tail-mass 0.01 --for-end2 --workers 4
seqdistill cache-targets data-bin --ensemble-paths 'teachers/*.pt' --output store-outputs \\
    --targets ensemble --beam 5"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "cache-targets", description=_DESCRIPTION, example=_EXAMPLE)
    add_place_options(
        parser,
        "--ensemble-paths",
        paths_help="teachers' checkpoints with colons between them, or a quoted glob; one alone "
        "serves mean_kl and kdgan",
    )
    _add_targets(parser)
    _add_content(parser)
    running = add_running_options(
        parser,
        max_tokens="as many as make tokens x vocabulary floats 16 MB, on a GPU 256 MB, but at most "
        "4096",
    )
    running.add_argument(
        "--ensemble-dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="precision of the teachers' forward pass; statistics are float32",
    )


def _add_targets(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("targets")
    group.add_argument(
        "--targets",
        choices=("references", "ensemble", "both"),
        default="references",
        help="which target sentences: the data's, the ensemble's own outputs, or the data's and "
        "then the outputs",
    )
    group.add_argument(
        "--beam", type=positive, default=5, metavar="N", help="size of the beam for outputs"
    )
    group.add_argument(
        "--outputs",
        type=positive,
        default=1,
        metavar="N",
        help="outputs of each source: the N best of the beam, or N draws",
    )
    group.add_argument(
        "--sampling",
        action="store_true",
        help="draw outputs, piece by piece, from the members' mean distribution instead of "
        "searching for the best",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws")
    group.add_argument(
        "--max-len-a",
        type=float,
        default=1.2,
        metavar="A",
        help="outputs have at most A · source length + B pieces",
    )
    group.add_argument("--max-len-b", type=int, default=10, metavar="B", help="see --max-len-a")


def _add_content(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("content")
    width = group.add_mutually_exclusive_group()
    width.add_argument(
        "--top-k",
        type=positive,
        metavar="K",
        help="pieces a token; K = the vocabulary's size keeps everything (default: 128)",
    )
    width.add_argument(
        "--tail-mass",
        type=float,
        metavar="BOUND",
        help="instead of K: as many as leave at most this much probability to the others",
    )
    group.add_argument(
        "--max-k",
        type=positive,
        metavar="K",
        help="of --tail-mass: never more than this (default: 1024, or the vocabulary's size)",
    )
    group.add_argument(
        "--store-dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of the probabilities: 11 or 24 significant bits",
    )
    group.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="of the teachers"
    )
    group.add_argument(
        "--for-end2", action="store_true", help="keep mean log-probabilities as well, for end2"
    )
    group.add_argument(
        "--exact-precision",
        action="store_true",
        help="keep the precision that --concentration exact needs",
    )


def run(args: argparse.Namespace) -> int:
    """Make the store; returns the exit status."""
    with fairseq_at_hand():
        from fairseq_plugins.target_cache.run import Caching

        caching = Caching(_options(args))
        if args.dry_run:
            print(json.dumps(caching.survey(), indent=1, ensure_ascii=False))
            return 0
        manifest = caching.run(show_progress)
    size = sum(shard["bytes"] for shard in manifest["shards"])
    left_out = manifest["left_out"]
    print(
        f"{args.output}: {manifest['tokens']:,} tokens of {manifest['sentences']:,} sentences, "
        f"{size_text(size)}, {size / manifest['tokens']:.0f} bytes a token"
        + (f"; {left_out} left out, longer than the teachers can read" if left_out else ""),
        file=sys.stderr,
    )
    return 0


def _options(args: argparse.Namespace) -> "CacheOptions":
    from fairseq_plugins.target_cache.decoding import Search
    from fairseq_plugins.target_cache.run import CacheOptions

    return CacheOptions(
        **shared_options(args),
        ensemble_paths=args.ensemble_paths,
        targets=args.targets,
        search=Search(
            args.beam, args.max_len_a, args.max_len_b, args.outputs, args.sampling, args.seed
        ),
        top_k=args.top_k,
        tail_bound=args.tail_mass,
        max_k=args.max_k,
        store_dtype=args.store_dtype,
        temperature=args.temperature,
        for_end2=args.for_end2,
        exact_precision=args.exact_precision,
        ensemble_dtype=args.ensemble_dtype,
    )
