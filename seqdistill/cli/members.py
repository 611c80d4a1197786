"""``seqdistill members``: the members of an ensemble, made of one trained model."""

import argparse
import sys
from pathlib import Path
from typing import Any

from seqdistill.cli.common import HelpFormatter, add_verb, positive

_DESCRIPTION = """\
Make several models of one trained fairseq model, to use them wherever an ensemble is: as
--ensemble-paths, for targets, for decoding. They are ordinary checkpoints; members.json beside them
says how they were made.

  dropout   each member has one fixed dropout mask in its weights (Gal & Ghahramani 2016)
  layers    each member has some of the layers (LayerDrop, Fan et al. 2020), drawn by the teacher's
            gates, if it was trained with --layer-gates

Checkpoints of one training, such as samples of --optimizer sgld, need no conversion."""

_EXAMPLE = """\
seqdistill members dropout teacher.pt --count 5 --seed 1 --output dropout-members
seqdistill members layers teacher.pt --count 5 --drop 0.2 --output layer-members
seqdistill cache-targets data-bin --ensemble-paths 'dropout-members/*.pt' --output targets"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "members", description=_DESCRIPTION, example=_EXAMPLE)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    dropout = _add_kind(kinds, "dropout", "members with one fixed dropout mask each")
    dropout.add_argument(
        "--rate",
        type=float,
        metavar="P",
        help="share of units to drop after embeddings and sublayers (default: the teacher's "
        "--dropout)",
    )
    dropout.add_argument(
        "--keep-embeddings",
        action="store_true",
        help="mask no embeddings, so that shared tables stay one and files do not grow",
    )
    layers = _add_kind(kinds, "layers", "members with some of the layers each")
    layers.add_argument(
        "--drop",
        type=float,
        metavar="P",
        help="probability of leaving a layer out (default: as the teacher's gates say, else its "
        "LayerDrop)",
    )


def run(args: argparse.Namespace) -> int:
    """Make and write the members; returns the exit status."""
    from seqdistill.teachers.cheap import read_teacher
    from seqdistill.teachers.cheap.writing import dropout_members, layer_members, prepare_folder

    folder = Path(args.output)
    teacher = read_teacher(args.teacher)
    prepare_folder(folder, overwrite=args.overwrite)
    if args.kind == "dropout":
        record = dropout_members(
            teacher,
            folder,
            count=args.count,
            seed=args.seed,
            rate=args.rate,
            embeddings=not args.keep_embeddings,
        )
        for line in record["not_folded"]:
            print(f"not in the members: {line}", file=sys.stderr)
    else:
        record = layer_members(teacher, folder, count=args.count, seed=args.seed, drop=args.drop)
    for member in record["members"]:
        about = ", ".join(
            f"{name.replace('_', ' ')} {_text(value)}"
            for name, value in member.items()
            if name not in ("file", "sha256")
        )
        print(f"{folder / member['file']}: {about}", file=sys.stderr)
    return 0


def _add_kind(kinds: Any, name: str, line: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, help=line, description=line[0].upper() + line[1:] + ".", formatter_class=HelpFormatter
    )
    parser.add_argument("teacher", metavar="FILE", help="checkpoint of a fairseq transformer")
    parser.add_argument("--count", type=positive, default=5, metavar="M", help="members to make")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what is drawn")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for the members")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the members in an existing FOLDER"
    )
    return parser


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
