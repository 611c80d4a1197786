"""``seqdistill disagreement``: how much translations by single members differ, as a measure."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from seqdistill.assessment.disagreement import disagreement_measure, disagreement_of_files
from seqdistill.assessment.hypothesis_files import HypothesisSet, read_set
from seqdistill.cli.common import add_output_options, add_verb, refuse_existing
from seqdistill.errors import InputError, UsageError
from seqdistill.files import atomic_write
from seqdistill.hypotheses import Hypothesis, read_records
from seqdistill.uncertainty.added_measures import DISAGREEMENT_METRICS

_DESCRIPTION = """\
Measure how much the members of an ensemble disagree when each translates by itself.

Reads JSONL of the same sentences, one file a member (decode with each checkpoint alone), and adds
the mean over all pairs of members of 1 - BLEU (chrF, TER or WER by choice) between their
translations of a sentence to the hypotheses of --into, as output_disagreement_METRIC. All else in
those lines stays as it is, so every other verb sees one more measure."""

_EXAMPLE = """\
seqdistill disagreement member1.jsonl member2.jsonl member3.jsonl \\
    --into ensemble.jsonl --output ensemble.more.jsonl
seqdistill disagreement member*.jsonl --metric chrf --into ensemble.jsonl --output more.jsonl"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "disagreement", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "members", nargs="+", metavar="FILE", help="translations by one member each, at least two"
    )
    parser.add_argument(
        "--metric",
        choices=list(DISAGREEMENT_METRICS),
        default="bleu",
        help="between two translations of a sentence",
    )
    parser.add_argument("--tokenize", metavar="NAME", help="sacreBLEU's tokenizer of BLEU")
    parser.add_argument(
        "--into",
        required=True,
        metavar="FILE",
        help="hypotheses of the same sentences that get the measure, the ensemble's as a rule; "
        "n-best lists may be among them",
    )
    add_output_options(parser, what="the hypotheses with the measure", required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and write; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    if len(args.members) < 2:
        raise UsageError("expected the files of at least two members")
    repeated = next((path for path in args.members if args.members.count(path) > 1), None)
    if repeated is not None:
        raise UsageError(f"{repeated} is given twice; a member disagrees with others only")
    measure = disagreement_measure(args.metric)
    members = [read_set(path) for path in args.members]
    into = read_set(args.into)
    into.require_same_sentences(members[0])
    values = disagreement_of_files(members, metric=args.metric, tokenize=args.tokenize)
    count = _write(args, measure, values, into)
    mean = sum(values.values()) / len(values)
    agreed = sum(value == 0.0 for value in values.values())
    print(
        f"{measure} of {len(values)} sentences by {len(members)} members: mean {mean:.4f}, "
        f"{agreed} with equal translations; added to {count} hypotheses",
        file=sys.stderr,
    )
    return 0


def _write(
    args: argparse.Namespace, measure: str, values: Mapping[int, float], into: HypothesisSet
) -> int:
    """Write every hypothesis with the measure; returns how many."""
    count = 0
    with atomic_write(args.output, overwrite=args.overwrite) as handle:
        for line, (hypothesis, record) in enumerate(read_records(args.into), start=1):
            _check(hypothesis, measure, values, f"{into.path}:{line}")
            record["uncertainty"][measure] = values[hypothesis.id]
            handle.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _check(hypothesis: Hypothesis, measure: str, values: Mapping[int, float], where: str) -> None:
    if measure in hypothesis.uncertainty:
        raise InputError(
            f"{where}: it has {measure} already; give the hypotheses as they were decoded, or "
            "another --metric"
        )
    if hypothesis.id not in values:  # of a sentence without a best hypothesis
        raise InputError(
            f"{where}: sentence {hypothesis.id} has no hypothesis of rank 0; give the output of "
            "one run over one set"
        )
