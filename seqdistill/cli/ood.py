"""``seqdistill ood``: how well each measure detects each out-of-domain set."""

import argparse
import json
import sys
from typing import Any

from seqdistill.assessment.hypothesis_sets import assess_ood, describe_model, read_best
from seqdistill.cli.common import (
    add_bootstrap_options,
    add_output_options,
    add_verb,
    measures_option,
    named_paths,
    refuse_existing,
)
from seqdistill.files import atomic_write
from seqdistill.report.tables import DETECTION_METRICS, ood_table

_DESCRIPTION = """\
Measure how well each uncertainty measure tells out-of-domain sentences from in-domain ones.

Reads the best hypothesis of each sentence from JSONL (seqdistill translate, or --uncertainty-output
of seqdistill-fairseq-generate) and prints a table: rows are measures, columns are sets, values are
per cent with 95 % bootstrap intervals, and * marks the best of a column."""

_EXAMPLE = """\
seqdistill ood --in-domain test.jsonl --out-of-domain news.jsonl \\
    --out-of-domain permuted=test.permuted.jsonl --output ood.json"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(
        subparsers,
        "ood",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument("--in-domain", required=True, metavar="FILE", help="the in-domain set")
    parser.add_argument(
        "--out-of-domain",
        required=True,
        action="append",
        metavar="[NAME=]FILE",
        help="an out-of-domain set; may be given several times",
    )
    parser.add_argument(
        "--measures",
        type=measures_option,
        metavar="A,B,…",
        help="measures to show, in this order (default: all that every file has)",
    )
    parser.add_argument(
        "--metric",
        choices=list(DETECTION_METRICS),
        default="auroc",
        help="shown in the table; JSON has all of them",
    )
    add_bootstrap_options(parser)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    add_output_options(parser, what="write all results as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    paths = named_paths(args.out_of_domain, "--out-of-domain")
    assessment = assess_ood(
        read_best(args.in_domain),
        {name: read_best(path) for name, path in paths.items()},
        measures=args.measures,
        resamples=args.bootstrap,
        seed=args.seed,
    )
    record = assessment.to_dict()
    record["files"] = {"in_domain": args.in_domain, "out_of_domain": paths}
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    if args.output is not None:
        with atomic_write(args.output, overwrite=args.overwrite) as handle:
            handle.write(text + "\n")
    if args.json:
        print(text)
        return 0
    label, _ = DETECTION_METRICS[args.metric]
    print(f"{label}, %, of {describe_model(assessment.model)}\n", file=sys.stderr)
    print(ood_table(assessment, args.metric, "markdown" if args.markdown else "plain"))
    signatures = {
        result.signature.split("|", 1)[1]: None
        for row in assessment.results.values()
        for result in row.values()
    }
    print("\n" + "\n".join(signatures), file=sys.stderr)
    return 0
