"""``seqdistill calibration``: whether the probabilities of systems are to be believed."""

import argparse
import sys
from dataclasses import asdict
from typing import Any

from seqdistill.assessment.calibration import BINNINGS, CalibrationResult, calibration
from seqdistill.assessment.diagrams import check_format, reliability_diagram
from seqdistill.assessment.forced_sets import read_forced, require_same_tokens
from seqdistill.assessment.hypothesis_files import describe_model
from seqdistill.assessment.numbers import compare_numbers
from seqdistill.assessment.token_calibration import assess_calibration
from seqdistill.cli.common import add_verb, named_paths, refuse_existing
from seqdistill.cli.comparisons import (
    add_result_options,
    comparison_record,
    format_comparison,
    print_signatures,
    write_json,
)
from seqdistill.errors import InputError, UsageError
from seqdistill.report.tables import Style, format_estimate, format_table

SCHEMA = "seqdistill.calibration/1"

_DESCRIPTION = """\
Measure likelihood and calibration of systems along scored references.

Reads force-decoded references from JSONL (--score-reference) and prints a table: rows are systems;
negative log-likelihood of a token (nats), share of right most probable pieces and their mean
probability (%), expected calibration error with bins of equal mass and of equal width (%), and the
NLL minus the mean entropy (nats), which is above 0 where the best temperature is above 1.
Intervals are 95 % bootstraps over sentences. With --baseline, differences to one of the systems
follow, with paired-bootstrap p-values."""

_EXAMPLE = """\
seqdistill calibration student=student/forced.jsonl ensemble=ensemble/forced.jsonl \\
    --baseline ensemble --diagram reliability.svg"""

#: Number → column, scale and digits.
_COLUMNS = {
    "nll": ("NLL", 1.0, 3),
    "accuracy": ("accuracy", 100.0, 1),
    "confidence": ("confidence", 100.0, 1),
    "ece_equal_mass": ("ECE (mass)", 100.0, 2),
    "ece_equal_width": ("ECE (width)", 100.0, 2),
    "entropy_gap": ("NLL − H", 1.0, 3),
}


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "calibration", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "forced", nargs="+", metavar="[NAME=]FILE", help="scored references of a system"
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="the system that the others are compared with"
    )
    parser.add_argument("--bins", type=int, default=15, metavar="N", help="of calibration errors")
    parser.add_argument(
        "--diagram", metavar="FILE", help="draw a reliability diagram, as .svg or .png"
    )
    parser.add_argument(
        "--binning", choices=BINNINGS, default="equal_mass", help="of the reliability diagram"
    )
    add_result_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns the exit status."""
    for path in (args.output, args.diagram):
        refuse_existing(path, overwrite=args.overwrite)
    if args.diagram is not None:
        check_format(args.diagram)
    paths = named_paths(args.forced, "FILE")
    if args.baseline is not None and args.baseline not in paths:
        raise UsageError(f"--baseline: expected one of {', '.join(paths)}, got {args.baseline!r}")
    systems = {name: read_forced(path) for name, path in paths.items()}
    if args.baseline is not None:
        for one in systems.values():
            require_same_tokens(one, systems[args.baseline])
    found = {
        name: assess_calibration(one, bins=args.bins, resamples=args.bootstrap, seed=args.seed)
        for name, one in systems.items()
    }
    pairs = {
        name: compare_numbers(numbers, found[args.baseline])
        for name, numbers in found.items()
        if args.baseline is not None and name != args.baseline
    }
    diagrams = {
        name: calibration(one.confidence, one.correct, binning=args.binning, bins=args.bins)
        for name, one in systems.items()
        if one.confidence is not None and one.correct is not None
    }
    if args.diagram is not None:
        if not diagrams:
            raise InputError(
                f"{next(iter(paths.values()))}: no token_confidence, so there is no reliability "
                "diagram; score the references with their confidence"
            )
        reliability_diagram(diagrams, args.diagram, overwrite=args.overwrite)
    record = {
        "schema": SCHEMA,
        "files": paths,
        "systems": {
            name: {
                "model": asdict(systems[name].source.model),
                "numbers": numbers.to_dict(),
                "reliability": _reliability(diagrams.get(name)),
            }
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
    for name, one in systems.items():
        tokens = f"{len(one.log_probs)} tokens of {one.n} sentences"
        print(f"{name}: {describe_model(one.source.model)}, {tokens}", file=sys.stderr)
    style: Style = "markdown" if args.markdown else "plain"
    labels = [label for label, _, _ in _COLUMNS.values()]
    rows = []
    for name, numbers in found.items():
        cells = []
        for number, (_, scale, digits) in _COLUMNS.items():
            value = numbers.numbers[number]
            cells.append(
                "–" if value is None else format_estimate(value, scale=scale, digits=digits)
            )
        rows.append([name, *cells])
    print(file=sys.stderr)
    print(format_table(["system", *labels], rows, style))
    if pairs:
        print(f"\ndifferences to {args.baseline}\n", file=sys.stderr)
        rows = [
            [
                name,
                *(
                    format_comparison(row[number], scale=scale, digits=digits)
                    for number, (_, scale, digits) in _COLUMNS.items()
                ),
            ]
            for name, row in pairs.items()
        ]
        print()
        print(format_table(["difference", *labels], rows, style))
    # Those of the others differ in what was decoded only, which stands above.
    first = next(iter(found.values()))
    print_signatures([first.signatures[number] for number in _COLUMNS])
    return 0


def _reliability(result: CalibrationResult | None) -> dict[str, Any] | None:
    """The points of a reliability diagram, None where no confidence was recorded."""
    if result is None:
        return None
    return {
        "confidence": result.confidence.tolist(),
        "accuracy": result.accuracy.tolist(),
        "count": result.count.tolist(),
        "signature": result.signature,
    }
