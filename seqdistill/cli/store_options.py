"""Options of the verbs that run teachers over a data folder and store what they say."""

import argparse
from typing import Any

from seqdistill.cli.common import positive
from seqdistill.cli.with_fairseq import add_language_options


def add_place_options(parser: argparse.ArgumentParser, paths: str, *, paths_help: str) -> None:
    """Add what is read and where the store goes.

    Args:
        parser: of the verb.
        paths: the option that names teachers.
        paths_help: its help.
    """
    parser.add_argument("data", metavar="DATA", help="folder that fairseq-preprocess made")
    parser.add_argument(paths, required=True, metavar="A.pt:B.pt…", help=paths_help)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the store")
    add_language_options(parser)
    parser.add_argument("--subset", default="train", metavar="NAME", help="of DATA")


def add_running_options(parser: argparse.ArgumentParser, *, max_tokens: str) -> Any:
    """Add how the store is made; returns the group, for more.

    Args:
        parser: of the verb.
        max_tokens: how many tokens a batch has by default, in words.
    """
    group = parser.add_argument_group("running")
    group.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes, each with its own teachers (if several: with one thread, and on a machine "
        "with several GPUs each takes another)",
    )
    group.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help=f"tokens of a batch (default: {max_tokens})",
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
    return group


def shared_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what these options say, as the plug-ins' ``StoreOptions`` call it."""
    return {
        "data": args.data,
        "output": args.output,
        "source": args.source_lang,
        "target": args.target_lang,
        "subset": args.subset,
        "shard_sentences": args.shard_sentences,
        "max_tokens": args.max_tokens,
        "workers": args.workers,
        "use_cpu": args.cpu,
        "overwrite": args.overwrite,
    }
