"""``seqdistill ood``: how well each measure detects each out-of-domain set."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from seqdistill.assessment.bootstrap import Comparison
from seqdistill.assessment.detection import compare_detection
from seqdistill.assessment.hypothesis_files import HypothesisSet, describe_model, read_set
from seqdistill.assessment.hypothesis_sets import assess_ood, choose_measures, uncertainty_of
from seqdistill.assessment.n_best import Aggregation, join_n_best
from seqdistill.cli.common import (
    add_verb,
    measures_option,
    named_paths,
    refuse_existing,
)
from seqdistill.cli.comparisons import (
    add_n_best_options,
    add_result_options,
    aggregation_of,
    comparison_record,
    format_comparison,
    print_signatures,
    write_json,
)
from seqdistill.errors import UsageError
from seqdistill.hypotheses import Hypothesis
from seqdistill.report.tables import DETECTION_METRICS, Style, format_table, ood_table

_DESCRIPTION = """\
Measure how well each uncertainty measure tells out-of-domain sentences from in-domain ones.

Reads the best hypothesis of each sentence from JSONL (seqdistill translate, or --uncertainty-output
of seqdistill-fairseq-generate) and prints a table: rows are measures, columns are sets, values are
per cent with 95 % bootstrap intervals, and * marks the best of a column. With a second system, or
a second measure, a table of differences follows, with paired-bootstrap p-values."""

_EXAMPLE = """\
seqdistill ood --in-domain test.jsonl --out-of-domain news.jsonl \\
    --out-of-domain permuted=test.permuted.jsonl --output ood.json
seqdistill ood --in-domain a/test.jsonl --out-of-domain a/news.jsonl \\
    --versus-in-domain b/test.jsonl --versus-out-of-domain b/news.jsonl"""


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
    parser.add_argument(
        "--versus-in-domain", metavar="FILE", help="the in-domain set of another system"
    )
    parser.add_argument(
        "--versus-out-of-domain",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="an out-of-domain set of that system, named as that of the first is",
    )
    parser.add_argument(
        "--versus-measure",
        metavar="NAME",
        help="compare every measure with this one (default: with itself, in the other system)",
    )
    add_n_best_options(parser)
    add_result_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    aggregation = aggregation_of(args)
    paths = named_paths(args.out_of_domain, "--out-of-domain")
    versus_paths = named_paths(args.versus_out_of_domain, "--versus-out-of-domain")
    if (args.versus_in_domain is None) != (not versus_paths):
        raise UsageError("--versus-in-domain and --versus-out-of-domain go together")
    if versus_paths and versus_paths.keys() != paths.keys():
        raise UsageError(
            f"--versus-out-of-domain: expected the sets {', '.join(paths)}, "
            f"got {', '.join(versus_paths)}; name them with NAME=FILE"
        )
    versus_paths = {name: versus_paths[name] for name in paths if name in versus_paths}
    first = _System(args.in_domain, paths, aggregation)
    assessment = assess_ood(
        first.in_domain.hypotheses,
        {name: one.hypotheses for name, one in first.out_of_domain.items()},
        measures=args.measures,
        resamples=args.bootstrap,
        seed=args.seed,
        n_best=join_n_best({one.path: one.n_best for one in first.all_sets()}),
    )
    second = first
    if args.versus_in_domain is not None:
        second = _System(args.versus_in_domain, versus_paths, aggregation)
        join_n_best({one.path: one.n_best for one in second.all_sets()})
    against = {m: args.versus_measure or m for m in assessment.measures}
    if second is first and args.versus_measure is None:
        against = {}
    elif args.versus_measure is None and args.measures is None:
        present = choose_measures(second.named())
        against = {m: m for m in against if m in present}
    comparisons = _compare(first, second, against, args)
    record = assessment.to_dict()
    record["files"] = {"in_domain": args.in_domain, "out_of_domain": paths}
    if against:
        record["files"]["versus"] = {
            "in_domain": args.versus_in_domain, "out_of_domain": versus_paths
        }  # fmt: skip
        record["comparisons"] = [
            {
                "measure": measure,
                "versus_measure": against[measure],
                "set": name,
                "numbers": {metric: comparison_record(c) for metric, c in found.items()},
            }
            for measure, row in comparisons.items()
            for name, found in row.items()
        ]
    if not write_json(record, args):
        return 0
    label, _ = DETECTION_METRICS[args.metric]
    style: Style = "markdown" if args.markdown else "plain"
    print(f"{label}, %, of {describe_model(assessment.model)}\n", file=sys.stderr)
    print(ood_table(assessment, args.metric, style))
    if comparisons:
        title = args.versus_in_domain or args.in_domain
        print(f"\ndifferences to {args.versus_measure or 'the same'} in {title}\n", file=sys.stderr)
        print()
        rows = [
            [measure, *(format_comparison(found[args.metric]) for found in row.values())]
            for measure, row in comparisons.items()
        ]
        print(format_table(["difference", *paths], rows, style))
    results = [result for row in assessment.results.values() for result in row.values()]
    print_signatures([result.signatures()[args.metric] for result in results])
    return 0


class _System:
    """The sets of one system, read from its files."""

    def __init__(
        self, in_domain: str, out_of_domain: Mapping[str, str], aggregation: Aggregation
    ) -> None:
        self.in_domain = read_set(in_domain, aggregation)
        self.out_of_domain = {
            name: read_set(path, aggregation) for name, path in out_of_domain.items()
        }

    def all_sets(self) -> list[HypothesisSet]:
        """In-domain first."""
        return [self.in_domain, *self.out_of_domain.values()]

    def named(self) -> dict[str, list[Hypothesis]]:
        """Every set by its file, for messages."""
        return {one.path: one.hypotheses for one in self.all_sets()}


def _compare(
    first: _System, second: _System, against: Mapping[str, str], args: argparse.Namespace
) -> dict[str, dict[str, dict[str, Comparison]]]:
    """By measure and set, every metric's difference."""
    if not against:
        return {}
    if second is not first:
        for one, other in zip(first.all_sets(), second.all_sets(), strict=True):
            one.require_same_sentences(other)
    choose_measures(second.named(), list(against.values()))
    return {
        measure: {
            name: compare_detection(
                uncertainty_of(first.in_domain.hypotheses, measure),
                uncertainty_of(first.out_of_domain[name].hypotheses, measure),
                uncertainty_of(second.in_domain.hypotheses, other),
                uncertainty_of(second.out_of_domain[name].hypotheses, other),
                resamples=args.bootstrap,
                seed=args.seed,
            )
            for name in first.out_of_domain
        }
        for measure, other in against.items()
    }
