"""``seqdistill generate-sources``: new source sentences, drawn from a language model."""

import argparse
import json
import sys
from typing import Any

from seqdistill.cli.common import add_verb, positive, show_progress
from seqdistill.cli.with_fairseq import add_language_options, fairseq_at_hand

_DESCRIPTION = """\
Draw new source sentences from a fairseq language model, for an ensemble to translate.

The model is trained on the source side of the same data (fairseq-train --task language_modeling
--sample-break-mode eos); it draws sentence by sentence, piece by piece. Sentences that were drawn
before, that any subset of DATA has, or that had to be cut are left out and counted. DIR/data is a
data folder with the new sentences as a subset without targets, beside the subsets of DATA; let the
ensemble translate it with cache-targets --targets ensemble, and train students on that.

A killed command goes on where it was when it is repeated."""

_EXAMPLE = """\
seqdistill generate-sources data-bin --path lm.pt --count 100000 --output generated
seqdistill generate-sources data-bin --path lm.pt --count 100000 --top-p 0.95 --seed 2 \\
    --sentencepiece-model spm.model --output generated
seqdistill cache-targets generated/data --subset generated --targets ensemble \\
    --ensemble-paths 'teachers/*.pt' --output targets"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "generate-sources", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "data", metavar="DATA", help="folder that fairseq-preprocess made for the translation"
    )
    parser.add_argument(
        "--path",
        required=True,
        metavar="FILE",
        help="checkpoint of a language model with the dictionary of DATA's source side",
    )
    parser.add_argument(
        "--count", required=True, type=positive, metavar="N", help="sentences to keep"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for them")
    add_language_options(parser)
    parser.add_argument("--name", default="generated", help="of the new subset")
    _add_draws(parser)
    group = parser.add_argument_group("running")
    group.add_argument(
        "--max-draws",
        type=positive,
        metavar="N",
        help="end with an error if so many draws are not enough (default: 20 for each sentence)",
    )
    group.add_argument("--cpu", action="store_true", help="stay on the CPU")
    group.add_argument("--overwrite", action="store_true", help="begin anew what DIR holds")
    group.add_argument(
        "--dry-run", action="store_true", help="print what would be done as JSON, and do nothing"
    )


def _add_draws(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("draws")
    group.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="of the model: below 1 likelier pieces come more often",
    )
    among = group.add_mutually_exclusive_group()
    among.add_argument(
        "--top-k", type=positive, metavar="K", help="draw from the K likeliest pieces alone"
    )
    among.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the likeliest pieces that have the probability P together",
    )
    group.add_argument("--seed", type=int, default=1, metavar="N", help="of the draws")
    group.add_argument(
        "--max-length",
        type=positive,
        default=100,
        metavar="N",
        help="pieces of a sentence; one that has not ended by itself before is left out",
    )
    group.add_argument(
        "--sentencepiece-model",
        metavar="FILE",
        help="that cut DATA: cut the text of every draw by it, so that no sentence is in pieces "
        "that its model would not choose",
    )


def run(args: argparse.Namespace) -> int:
    """Draw the sentences; returns the exit status."""
    with fairseq_at_hand():
        from fairseq_plugins.source_drawing.model import Draws
        from fairseq_plugins.source_drawing.run import Drawing, DrawOptions

        drawing = Drawing(
            DrawOptions(
                data=args.data,
                path=args.path,
                output=args.output,
                count=args.count,
                source=args.source_lang,
                target=args.target_lang,
                name=args.name,
                draws=Draws(args.temperature, args.top_k, args.top_p, args.max_length, args.seed),
                most=args.max_draws,
                sentencepiece_model=args.sentencepiece_model,
                use_cpu=args.cpu,
                overwrite=args.overwrite,
            )
        )
        if args.dry_run:
            print(json.dumps(drawing.survey(), indent=1, ensure_ascii=False))
            return 0
        manifest = drawing.run(show_progress)
    left_out = "".join(f"; {count:,} {why}" for why, count in manifest["left_out"].items())
    print(
        f"{args.output}: {manifest['sentences']:,} new sentences, {manifest['tokens']:,} pieces, "
        f"of {manifest['drawn']:,} draws{left_out}",
        file=sys.stderr,
    )
    return 0
