"""``seqdistill fidelity``: how like its ensemble a student is, on the same scored references."""

import argparse
import sys
from dataclasses import asdict
from typing import Any

from seqdistill.assessment.fidelity import assess_fidelity
from seqdistill.assessment.forced_sets import read_forced
from seqdistill.assessment.hypothesis_files import describe_model
from seqdistill.assessment.numbers import Numbers, compare_numbers
from seqdistill.cli.common import add_verb, named_paths, refuse_existing
from seqdistill.cli.comparisons import (
    add_result_options,
    comparison_record,
    format_comparison,
    print_signatures,
    write_json,
)
from seqdistill.errors import UsageError
from seqdistill.report.tables import Style, format_estimate, format_table

SCHEMA = "seqdistill.fidelity/1"

_DESCRIPTION = """\
Compare systems with a reference system, such as students with their ensemble, on scored references.

Reads force-decoded references from JSONL (--score-reference) and prints a table: columns are
systems, rows are the mean |ln p - ln p_ref| of the reference tokens and the mean of ln p_ref - ln p
(nats), the mean difference of the largest probabilities, KL(p_ref||p) (nats) and the agreement on
the most probable piece, and Spearman's rank correlation of every measure, over tokens and over
sentences. Divergence and agreement are exact where a system was scored against the reference
(`seqdistill score --against`), and bounds where it was not. Intervals are 95 % bootstraps over
sentences. With --baseline, differences to one of the systems follow."""

_EXAMPLE = """\
seqdistill fidelity --reference ensemble/forced.jsonl \\
    proxy=proxy/forced.jsonl end2=end2/forced.jsonl --baseline end2"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "fidelity", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "forced", nargs="+", metavar="[NAME=]FILE", help="references as a system scored them"
    )
    parser.add_argument(
        "--reference", required=True, metavar="FILE", help="as the reference system scored them"
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="the system that the others are compared with"
    )
    add_result_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    paths = named_paths(args.forced, "FILE")
    if args.baseline is not None and args.baseline not in paths:
        raise UsageError(f"--baseline: expected one of {', '.join(paths)}, got {args.baseline!r}")
    reference = read_forced(args.reference)
    models, found = {}, {}
    for name, path in paths.items():
        one = read_forced(path)
        models[name] = one.source.model
        found[name] = assess_fidelity(one, reference, resamples=args.bootstrap, seed=args.seed)
    pairs = {
        name: compare_numbers(numbers, found[args.baseline])
        for name, numbers in found.items()
        if args.baseline is not None and name != args.baseline
    }
    record = {
        "schema": SCHEMA,
        "files": paths,
        "reference": {"file": args.reference, "model": asdict(reference.source.model)},
        "systems": {
            name: {"model": asdict(models[name]), "numbers": numbers.to_dict()}
            for name, numbers in found.items()
        },
        "baseline": args.baseline,
        "comparisons": {
            name: {number: comparison_record(c) for number, c in row.items()}
            for name, row in pairs.items()
        },
    }
    if not write_json(record, args):
        return 0
    for name, model in models.items():
        print(f"{name}: {describe_model(model)}", file=sys.stderr)
    tokens = f"{len(reference.log_probs)} tokens of {reference.n} sentences"
    print(f"reference: {describe_model(reference.source.model)}, {tokens}\n", file=sys.stderr)
    style: Style = "markdown" if args.markdown else "plain"
    names = list(dict.fromkeys(n for numbers in found.values() for n in numbers.numbers))
    rows = [[name, *(_cell(numbers, name) for numbers in found.values())] for name in names]
    print(format_table(["number", *found], rows, style))
    if pairs:
        print(f"\ndifferences to {args.baseline}\n", file=sys.stderr)
        print()
        rows = [
            [
                name,
                *(format_comparison(row.get(name), scale=1.0, digits=3) for row in pairs.values()),
            ]
            for name in names
        ]
        print(format_table(["difference", *pairs], rows, style))
    # Those of the others differ in what was decoded only, which stands above.
    most = max(found.values(), key=lambda numbers: len(numbers.signatures))
    print_signatures(list(most.signatures.values()))
    return 0


def _cell(numbers: Numbers, name: str) -> str:
    value = numbers.numbers.get(name)
    return "–" if value is None else format_estimate(value, scale=1.0, digits=3)
