"""``seqdistill errors``: how well each measure finds the mistakes of a system."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from seqdistill.assessment.diagrams import check_format, rejection_diagram
from seqdistill.assessment.error_detection import (
    ACCEPTABLE_ERROR,
    ACCEPTABLE_WORD_ERRORS,
    COVERAGES,
    ERROR_METRICS,
    ErrorResult,
    default_acceptable_error,
    detect_errors,
)
from seqdistill.assessment.hypothesis_files import HypothesisSet, describe_model, read_set
from seqdistill.assessment.hypothesis_sets import choose_measures, uncertainty_of
from seqdistill.assessment.n_best import Aggregation
from seqdistill.assessment.numbers import compare_numbers
from seqdistill.assessment.quality import SENTENCE_METRICS, sentence_quality, sentence_signature
from seqdistill.assessment.rejection import RejectionResult, reject
from seqdistill.assessment.selective import corpus_score, selective_metric
from seqdistill.assessment.word_alignment import Normalisation
from seqdistill.cli.common import (
    add_verb,
    measures_option,
    refuse_existing,
)
from seqdistill.cli.comparisons import (
    add_n_best_options,
    add_normalisation_options,
    add_result_options,
    aggregation_of,
    comparison_record,
    format_comparison,
    normalisation_of,
    print_signatures,
    write_json,
)
from seqdistill.errors import InputError
from seqdistill.report.tables import Style, format_estimate, format_table

SCHEMA = "seqdistill.errors/1"

_DESCRIPTION = """\
Measure how well each uncertainty measure finds the mistakes of a system.

Reads the best hypothesis of each sentence and its reference from JSONL and prints a table: rows are
measures, columns are numbers in per cent with 95 % bootstrap intervals: prediction rejection ratio,
error-retention area (lower is better), area of F1 over retention and F1 at 95 % retention at an
acceptable error, and the area under the risk-coverage curve (lower is better). With a second
system, or a second measure, a table of differences follows, with paired-bootstrap p-values."""

_EXAMPLE = """\
seqdistill errors student.jsonl --quality bleu --output errors.json
seqdistill errors student.jsonl --versus ensemble.jsonl --measures total_uncertainty"""

_SHOWN = ["prr", "r_auc", "f1_auc", "f1_at_95", "aurc"]
_CURVE_POINTS = 101  # of a curve in JSON


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "errors", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument("hypotheses", metavar="FILE", help="translations with their uncertainty")
    parser.add_argument(
        "--references",
        metavar="TEXT",
        help="references, one line a sentence (default: those in FILE)",
    )
    parser.add_argument(
        "--quality",
        choices=SENTENCE_METRICS,
        default="chrf",
        help="of a sentence; its error is 1 - quality/100, the rate itself for ter and wer",
    )
    parser.add_argument("--tokenize", metavar="NAME", help="sacreBLEU's tokenizer of BLEU")
    parser.add_argument(
        "--acceptable-error",
        type=float,
        metavar="X",
        help="a sentence is acceptable up to this error, between 0 and 1 (default: "
        f"{ACCEPTABLE_WORD_ERRORS:g} for wer, {ACCEPTABLE_ERROR:g} for all else)",
    )
    parser.add_argument(
        "--coverage",
        type=_shares,
        default=",".join(f"{share:g}" for share in COVERAGES),  # read as if given
        metavar="A,B,…",
        help="shares kept for selective quality and BLEU or WER, above 0, at most 1",
    )
    parser.add_argument(
        "--measures",
        type=measures_option,
        metavar="A,B,…",
        help="measures to show, in this order (default: all)",
    )
    parser.add_argument(
        "--show",
        type=measures_option,
        default=",".join(_SHOWN),
        metavar="A,B,…",
        help=f"numbers shown in the table, of {', '.join(ERROR_METRICS)}, quality@C and bleu@C "
        "(wer@C for wer) at each coverage C; JSON has all of them",
    )
    parser.add_argument(
        "--versus", metavar="FILE", help="another system on the same sentences to compare with"
    )
    parser.add_argument(
        "--versus-measure",
        metavar="NAME",
        help="compare every measure with this one (default: with itself, in the other system)",
    )
    parser.add_argument(
        "--diagram", metavar="FILE", help="draw the rejection curves, as .svg or .png"
    )
    add_normalisation_options(parser)
    add_n_best_options(parser)
    add_result_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns the exit status."""
    for path in (args.output, args.diagram):
        refuse_existing(path, overwrite=args.overwrite)
    if args.diagram is not None:
        check_format(args.diagram)
    shown = _check_shown(args)
    aggregation, normalisation = aggregation_of(args), normalisation_of(args, quality=args.quality)
    first = _read(args.hypotheses, args.references, aggregation)
    second = first
    if args.versus is not None:
        second = _read(args.versus, args.references, aggregation)
        first.require_same_sentences(second)
    measures = choose_measures({args.hypotheses: first.hypotheses}, args.measures)
    against = {m: args.versus_measure or m for m in measures} if _compares(args) else {}
    if args.versus_measure is None and args.versus is not None and args.measures is None:
        present = second.hypotheses[0].uncertainty
        against = {m: m for m in measures if m in present}
    results, curves = _assess(first, measures, args, normalisation)
    others = {}
    if against and second is first:
        missing = [m for m in dict.fromkeys(against.values()) if m not in results]
        others = results | (_assess(first, missing, args, normalisation)[0] if missing else {})
    elif against:
        others, _ = _assess(second, list(dict.fromkeys(against.values())), args, normalisation)
    pairs = {
        measure: compare_numbers(results[measure], others[other])
        for measure, other in against.items()
    }
    if args.diagram is not None:
        rejection_diagram(curves, args.diagram, overwrite=args.overwrite)
    record = {
        "schema": SCHEMA,
        "files": {"hypotheses": args.hypotheses, "versus": args.versus},
        "model": asdict(first.model),
        "quality": args.quality,
        "results": [
            {**result.to_dict(), "curve": _curve(curves[name])} for name, result in results.items()
        ],
        "comparisons": [
            {
                "measure": measure,
                "versus_measure": against[measure],
                "numbers": {name: comparison_record(c) for name, c in row.items()},
            }
            for measure, row in pairs.items()
        ],
    }
    if not write_json(record, args):
        return 0
    style: Style = "markdown" if args.markdown else "plain"
    labels = [ERROR_METRICS[n].label if n in ERROR_METRICS else n for n in shown]
    sentences = f"{len(first.hypotheses)} sentences of {describe_model(first.model)}"
    print(f"error detection, %, by sentence {args.quality}: {sentences}\n", file=sys.stderr)
    rows = [[name, *_cells(result, shown)] for name, result in results.items()]
    print(format_table(["measure", *labels], rows, style))
    if pairs:
        title = args.versus or args.hypotheses
        print(f"\ndifferences to {args.versus_measure or 'the same'} in {title}\n", file=sys.stderr)
        print()
        rows = [
            [measure, *(format_comparison(row[n], scale=_scale(n)) for n in shown)]
            for measure, row in pairs.items()
        ]
        print(format_table(["difference", *labels], rows, style))
    print_signatures([result.signature_of(name) for name in shown for result in results.values()])
    return 0


def _assess(
    one: HypothesisSet, measures: list[str], args: argparse.Namespace, normalisation: Normalisation
) -> tuple[dict[str, ErrorResult], dict[str, RejectionResult]]:
    """Results and rejection curves of one system, by measure."""
    texts, references = [h.text for h in one.hypotheses], one.references()
    try:
        how: Any = {"tokenize": args.tokenize, "normalisation": normalisation}
        quality = sentence_quality(texts, references, metric=args.quality, **how)
        scores = {measure: uncertainty_of(one.hypotheses, measure) for measure in measures}
        results = detect_errors(
            quality,
            scores,
            acceptable_error=default_acceptable_error(args.quality)
            if args.acceptable_error is None
            else args.acceptable_error,
            coverages=args.coverage,
            corpus=corpus_score(args.quality, texts, references, **how),
            quality_signature=sentence_signature(args.quality, **how),
            resamples=args.bootstrap,
            seed=args.seed,
            n_best=one.n_best,
        )
    except InputError as error:
        raise InputError(f"{one.path}: {error}") from error
    label = f"sentence {SENTENCE_METRICS[args.quality]}"
    curves = {
        measure: reject(quality, values, measure=measure, quality_name=label, resamples=0)
        for measure, values in scores.items()
    }
    return results, curves


def _read(path: str, references: str | None, aggregation: Aggregation) -> HypothesisSet:
    found = read_set(path, aggregation)
    return found if references is None else found.with_references(references)


def _compares(args: argparse.Namespace) -> bool:
    return args.versus is not None or args.versus_measure is not None


def _check_shown(args: argparse.Namespace) -> list[str]:
    """The numbers to show, all known."""
    kinds = ("quality", selective_metric(args.quality))
    selective = [f"{kind}@{share:g}" for share in args.coverage for kind in kinds]
    known = [*ERROR_METRICS, *selective]
    unknown = [name for name in args.show if name not in known]
    if unknown:
        raise InputError(f"--show: unknown {', '.join(unknown)}; there are {', '.join(known)}")
    return list(args.show)


def _scale(name: str) -> float:
    """From a number to what is shown: quality, BLEU and WER are in per cent already."""
    return 100.0 if name in ERROR_METRICS else 1.0


def _cells(result: ErrorResult, shown: list[str]) -> list[str]:
    numbers = [(name, result.numbers[name]) for name in shown]
    return ["–" if n is None else format_estimate(n, scale=_scale(name)) for name, n in numbers]


def _curve(found: RejectionResult) -> Mapping[str, list[float]]:
    """A rejection curve on a grid of shares that every file has."""
    grid = np.linspace(0.0, 1.0, _CURVE_POINTS)
    lines = {"curve": found.curve, "oracle": found.oracle, "random": found.random}
    return {
        "rejected": [round(float(x), 6) for x in grid],
        **{
            name: np.interp(grid, found.rejected, line).round(6).tolist()
            for name, line in lines.items()
        },
    }


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise argparse.ArgumentTypeError("expected numbers with commas between them") from error
    for share in shares:
        if not 0.0 < share <= 1.0:
            raise argparse.ArgumentTypeError(
                f"a coverage must lie above 0 and at most at 1, got {share:g}"
            )
    return shares
