"""``seqdistill consolidate``: one ordinary checkpoint of the shards of DeepSpeed's engine."""

import argparse
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from seqdistill.cli.common import add_output_options, add_verb, refuse_existing
from seqdistill.errors import InputError

_DESCRIPTION = """\
Put the weights of a checkpoint of --deepspeed together and write one ordinary fairseq checkpoint,
which fairseq-generate, `seqdistill translate`, --ensemble-paths and averaging read.

The weights are the float32 master weights where training kept some (float16, bfloat16). The state
of the optimiser is left out: training goes on from the checkpoint of --deepspeed itself.

DeepSpeed must be installed: its own classes are in the shards, and reading them runs code that they
hold, as with every file of pickle. Consolidate only what you trust."""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(
        subparsers,
        "consolidate",
        description=_DESCRIPTION,
        example="seqdistill consolidate checkpoints/checkpoint_best.pt --output student.pt",
    )
    parser.add_argument("checkpoint", metavar="FILE", help="a checkpoint_….pt of --deepspeed")
    add_output_options(parser, what="the checkpoint to write", required=True)
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="type of the weights in it",
    )


def run(args: argparse.Namespace) -> int:
    """Consolidate and write; returns the exit status."""
    output = Path(args.output)
    if output.exists() and output.resolve() == Path(args.checkpoint).resolve():
        raise InputError(f"--output {output} is the checkpoint itself; give another file")
    refuse_existing(args.output, overwrite=args.overwrite)
    # Nothing runs on a GPU here, and looking for one DeepSpeed would talk on stdout.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch

    from seqdistill.files import write_whole
    from seqdistill.integrations.deepspeed.weights import DTYPES, consolidate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of DeepSpeed about itself while it is imported
        state = consolidate(args.checkpoint, DTYPES[args.dtype])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, buffer.getvalue())
    count = sum(weight.numel() for weight in state["model"].values())
    print(f"{output}: {count:,} numbers in {len(state['model'])} weights", file=sys.stderr)
    return 0
