"""``seqdistill groups``: where a student errs more than its teachers, by group."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from seqdistill.assessment.bootstrap import Comparison, Estimate
from seqdistill.assessment.forced_sets import forced_set
from seqdistill.assessment.group_errors import MATCHINGS, assess_group_errors
from seqdistill.assessment.group_fidelity import assess_group_fidelity
from seqdistill.assessment.group_numbers import SPREADS, GroupResult
from seqdistill.assessment.groups import GROUPINGS, GroupOptions
from seqdistill.assessment.hypothesis_files import HypothesisSet, describe_model, read_set
from seqdistill.assessment.numbers import compare_numbers
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

SCHEMA = "seqdistill.groups/1"

#: Number of a group → how the table calls it, and its scale.
SHOWN = {
    "missed_change": ("Δ missed, %", 100.0),
    "false_change": ("Δ false, %", 100.0),
    "top1_agreement": ("same top piece, %", 100.0),
    "kl_divergence": ("KL(p_ref‖p)", 1.0),
    "nll_difference": ("nll − nll_ref", 1.0),
    "error_change": ("Δ token error, %", 100.0),
}
LABELS = dict(zip(SPREADS, ("CEV", "SDE"), strict=True))

_DESCRIPTION = """\
Compare students with a reference system, such as their ensemble, group by group.

Reads either what systems decoded (with references) or references as they scored them, and prints a
table: rows are groups, and for every student

  decoded    the relative change of missed words (of the reference, not in the output) and of false
             words (of the output, not in the reference) from the reference system to the student,
             and over all groups the combined error variance (CEV; 0: every group changed alike) and
             the symmetric distance error (SDE; 0: missed and false words changed alike)
  scored     agreement on the most probable piece, KL(p_ref||p) (both only after `seqdistill score
             --against`), the difference of the references' nll, and the relative change of the
             share of positions whose most probable piece is not the reference's

Groups of sentences are made by length, by how rare their words are in the training text
(rarest-word, mean-word) or by a file: lines KEY<tab>GROUP with a sentence's number or its source
(of speech the utterance's id), or a manifest of prepare-speech, for its speakers. With --by word
the words themselves are grouped, not their sentences. Intervals are 95 % bootstraps over sentences.
With --baseline, differences of CEV and SDE to one of the students follow."""

_EXAMPLE = """\
seqdistill groups --reference ensemble/test.jsonl proxy=proxy/test.jsonl end2=end2/test.jsonl
seqdistill groups --reference ensemble/test.jsonl proxy/test.jsonl \\
    --by word --training-text train.de
seqdistill groups --reference ensemble/forced.jsonl proxy/forced.jsonl \\
    --by file --groups test.tsv"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "groups", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "students", nargs="+", metavar="[NAME=]FILE", help="what a student decoded, or scored"
    )
    parser.add_argument(
        "--reference", required=True, metavar="FILE", help="the same of the reference system"
    )
    parser.add_argument("--by", choices=GROUPINGS, default="length", help="what makes groups")
    parser.add_argument(
        "--bins", type=int, default=5, metavar="N", help="groups of about equal size"
    )
    parser.add_argument(
        "--edges", metavar="A,B,…", help="instead: the first value of every group but the first"
    )
    parser.add_argument(
        "--training-text", metavar="TEXT", help="what words are counted in, a sentence a line"
    )
    parser.add_argument("--groups", metavar="FILE", help="of --by file")
    parser.add_argument(
        "--side",
        choices=["reference", "source"],
        default="reference",
        help="the text whose length or words make groups",
    )
    parser.add_argument(
        "--matching",
        choices=MATCHINGS,
        default="bag",
        help="when a word is found: anywhere in the other text (bag), or at its place in the "
        "alignment of the word error rate (aligned; for transcripts)",
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="the student that the others are compared with"
    )
    add_result_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    paths = named_paths(args.students, "FILE")
    if args.baseline is not None and args.baseline not in paths:
        raise UsageError(f"--baseline: expected one of {', '.join(paths)}, got {args.baseline!r}")
    options = _options(args)
    reference = read_set(args.reference)
    models, found = {}, {}
    for name, path in paths.items():
        student = read_set(path)
        models[name] = student.model
        found[name] = _assess(student, reference, options, args)
    pairs = {
        name: compare_numbers(one.numbers, found[args.baseline].numbers, pivotal=SPREADS)
        for name, one in found.items()
        if args.baseline is not None and name != args.baseline
    }
    record = {
        "schema": SCHEMA,
        "files": paths,
        "reference": {"file": args.reference, "model": asdict(reference.model)},
        "systems": {
            name: {"model": asdict(models[name]), **one.to_dict()} for name, one in found.items()
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
    print(f"reference: {describe_model(reference.model)}\n", file=sys.stderr)
    style: Style = "markdown" if args.markdown else "plain"
    _print_table(found, args.by, style)
    _print_spreads(found, pairs, args.baseline, style)
    # Every group has the signatures of the others.
    first = next(iter(found.values()))
    signatures = first.numbers.signatures
    print_signatures([signatures[name] for name in signatures if name.partition(":")[0] in _SIGNED])
    return 0


_SIGNED = {*SHOWN, *SPREADS}


def _options(args: argparse.Namespace) -> GroupOptions:
    edges = None
    if args.edges is not None:
        try:
            edges = tuple(float(edge) for edge in args.edges.split(","))
        except ValueError as error:
            raise UsageError(f"--edges: expected numbers with commas between: {error}") from error
    if args.groups is not None and args.by != "file":
        raise UsageError("--groups belongs to --by file")
    return GroupOptions(args.by, args.bins, edges, args.training_text, args.groups, args.side)


def _assess(
    student: HypothesisSet,
    reference: HypothesisSet,
    options: GroupOptions,
    args: argparse.Namespace,
) -> GroupResult:
    chosen = {"resamples": args.bootstrap, "seed": args.seed}
    kinds = {one.hypotheses[0].forced for one in (student, reference)}
    if len(kinds) > 1:
        raise InputError(
            f"one of {student.path} and {reference.path} was decoded and the other scored; give "
            "what both decoded, or references as both scored them"
        )
    if kinds == {True}:
        sets = forced_set(student), forced_set(reference)
        return assess_group_fidelity(*sets, options, **chosen)
    return assess_group_errors(student, reference, options, matching=args.matching, **chosen)


def _print_table(found: Mapping[str, GroupResult], by: str, style: Style) -> None:
    first = next(iter(found.values()))
    shown = [name for name in SHOWN if any(name in one.names for one in found.values())]
    header = [GROUPINGS[by], "sentences", "words" if "missed" in first.names else "tokens"]
    header += [f"{system}: {SHOWN[name][0]}" for system in found for name in shown]
    rows = []
    for index, label in enumerate(first.grouping.labels):
        cells = [
            _cell(one.of_group(name, index), SHOWN[name][1])
            for one in found.values()
            for name in shown
        ]
        rows.append([label, str(first.sentences[index]), str(first.units[index]), *cells])
    print(format_table(header, rows, style))


def _print_spreads(
    found: Mapping[str, GroupResult],
    pairs: Mapping[str, Mapping[str, Comparison | None]],
    baseline: str | None,
    style: Style,
) -> None:
    names = [name for name in SPREADS if any(name in one.numbers.numbers for one in found.values())]
    if not names:
        return
    rows = [
        [system, *(_cell(one.numbers.numbers[name], 1.0, 4) for name in names)]
        for system, one in found.items()
    ]
    print()
    print(format_table(["over all groups", *(LABELS[name] for name in names)], rows, style))
    if pairs:
        rows = [
            [system, *(format_comparison(row[name], scale=1.0, digits=4) for name in names)]
            for system, row in pairs.items()
        ]
        print()
        header = [f"difference to {baseline}", *(LABELS[name] for name in names)]
        print(format_table(header, rows, style))


def _cell(value: Estimate | None, scale: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 1 if scale == 100.0 else 3
    return "–" if value is None else format_estimate(value, scale=scale, digits=digits)
