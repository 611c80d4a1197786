"""``seqdistill translate``: text with its uncertainty, and an alarm when it is out of domain."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from seqdistill.assessment.hypothesis_files import describe_model
from seqdistill.cli.alarm import FIELDS, add_alarm_options, alarm_of, write_hypotheses
from seqdistill.cli.common import add_output_options, add_verb, refuse_existing
from seqdistill.cli.decoding import (
    add_model_options,
    add_search_options,
    add_uncertainty_options,
    check_n_best,
    load_translator,
    uncertainty_options,
    with_progress,
)
from seqdistill.hypotheses import Hypothesis

if TYPE_CHECKING:
    from fairseq_plugins.generation.translator import Translator

_DESCRIPTION = (
    """\
Translate lines of text with a fairseq checkpoint or an ensemble, and say how uncertain each is.

Reads one sentence a line from stdin and writes one JSON object a line: the hypothesis with its
text and uncertainty (the fields of --uncertainty-output), and
"""
    + FIELDS
)

_EXAMPLE = """\
seqdistill translate --path student.pt --data data-bin -s en -t de \\
    --sentencepiece-model spm.model --calibrate valid.jsonl < news.en > news.jsonl"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(
        subparsers,
        "translate",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    add_model_options(
        parser,
        sentencepiece_help="segments the lines; without it they must come in pieces, with spaces "
        "between",
    )
    search = add_search_options(parser, unit="lines", many=32)
    search.add_argument(
        "--max-len-a",
        type=float,
        default=1.2,
        metavar="A",
        help="at most A · source length + B pieces, of the longest source decoded together",
    )
    search.add_argument("--max-len-b", type=int, default=10, metavar="B", help="see --max-len-a")
    add_uncertainty_options(parser)
    add_alarm_options(parser)
    add_output_options(parser, what="write here instead of to stdout")


def run(args: argparse.Namespace) -> int:
    """Translate stdin; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    check_n_best(args)
    alarm = alarm_of(args)
    translator = load_translator(
        args,
        uncertainty_options(args, also=args.measure),
        beam=args.beam,
        max_len_a=args.max_len_a,
        max_len_b=args.max_len_b,
    )
    alarm.check(translator.model)
    print(f"decoding with {describe_model(translator.model)}", file=sys.stderr)

    # Somebody who types wants an answer to each line.
    batch_size = 1 if sys.stdin.isatty() else args.batch_size
    found = with_progress(_translated(translator, sys.stdin, batch_size, args.nbest))
    write_hypotheses(found, alarm, args, "sentences")
    return 0


def _translated(
    translator: "Translator", lines: Iterable[str], batch_size: int, n_best: int
) -> Iterator[Hypothesis]:
    """Yield the hypotheses of all lines, in their order, a batch at a time."""
    stripped = (line.rstrip("\r\n") for line in lines)
    count = 0
    while batch := list(islice(stripped, batch_size)):
        yield from translator.translate(batch, first_id=count, n_best=n_best)
        count += len(batch)
