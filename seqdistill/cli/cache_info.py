"""``seqdistill cache-info``: what is in a target store."""

import argparse
import json
import shlex
from typing import Any

from seqdistill.cli.common import add_verb
from seqdistill.targets.store import TargetStore
from seqdistill.targets.store.describe import describe, size_text

_DESCRIPTION = """\
Show what is in a target store: size, settings, teachers, how many pieces its tokens have, how much
probability lies in their tails, and how uncertain the ensemble is (in nats)."""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(
        subparsers, "cache-info", description=_DESCRIPTION, example="seqdistill cache-info store"
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the store")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print; returns the exit status."""
    record = describe(TargetStore.open(args.folder))
    if args.json:
        print(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False))
        return 0
    settings = record["settings"]
    origin = dict(settings["origin"])
    rows = {
        "sentences": f"{record['sentences']:,}"
        + (f", {record['left_out']:,} left out" if record["left_out"] else ""),
        "tokens": f"{record['tokens']:,}",
        "size": f"{size_text(record['bytes'])} in {record['shards']} shards, "
        f"{record['bytes_per_token']:.1f} bytes a token",
        "targets": ", ".join(f"{name} {value}" for name, value in origin.items()),
        "teachers": f"{len(record['teachers'])}: {', '.join(record['teachers'])}",
        "vocabulary": f"{settings['vocabulary_size']:,}",
        "pieces a token": _pieces(record),
        "stored as": settings["dtype"]
        + ", with what end2 needs" * settings["for_end2"]
        + ", with exact precisions" * settings["exact_precision"],
        "temperature": f"{settings['temperature']:g}",
        "tail mass": _summary(record["tail_mass"], ".2e"),
        "total uncertainty": f"mean {record['mean_total_uncertainty']:.4f}",
        "mutual information": f"mean {record['mean_mutual_information']:.4f}",
        "EPKL": f"mean {record['mean_epkl']:.4f}",
        "RMI": f"mean {record['mean_reverse_mutual_information']:.4f}",
        "made by": shlex.join(record["made_by"].get("command", [])),
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _pieces(record: dict[str, Any]) -> str:
    settings = record["settings"]
    if settings["tail_bound"] is None:
        return str(settings["top_k"])
    bound = f"tail at most {settings['tail_bound']:g}, at most {settings['max_k']}"
    return f"{_summary(record['pieces_per_token'], '.0f')} ({bound})"


def _summary(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())
