"""What the assessing verbs share: n-best lists, a second system, and how differences are shown."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from seqdistill.assessment.bootstrap import Comparison
from seqdistill.assessment.n_best import AGGREGATIONS, Aggregation
from seqdistill.assessment.word_alignment import AS_WRITTEN, Normalisation
from seqdistill.cli.common import add_bootstrap_options, add_output_options
from seqdistill.errors import InputError, UsageError
from seqdistill.files import atomic_write
from seqdistill.report.tables import format_estimate, format_p_value


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """Add the bootstrap's options, --markdown, --json, --output and --overwrite."""
    add_bootstrap_options(parser)
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_output_options(parser, what="write all results as JSON")


def add_n_best_options(parser: Any) -> None:
    """Add --nbest-aggregation and --nbest-temperature."""
    parser.add_argument(
        "--nbest-aggregation",
        choices=AGGREGATIONS,
        default="top",
        help="of measures over the hypotheses of a sentence (files written with --nbest N): the "
        "best alone, weighted by softmax(ln P(y)/tau), or all alike",
    )
    parser.add_argument(
        "--nbest-temperature",
        type=float,
        metavar="TAU",
        help="of the weights, above 0 (default: 1)",
    )


def add_normalisation_options(parser: Any) -> None:
    """Add --lowercase and --remove-punctuation."""
    parser.add_argument(
        "--lowercase", action="store_true", help="case makes no word error (of both texts)"
    )
    parser.add_argument(
        "--remove-punctuation",
        action="store_true",
        help="punctuation makes no word error: it is taken out of both texts, inside words, too",
    )


def normalisation_of(args: argparse.Namespace, *, quality: str = "wer") -> Normalisation:
    """Read the options of :func:`add_normalisation_options`.

    Raises:
        UsageError: one is given for a quality that is not the word error rate.
    """
    found = Normalisation(args.lowercase, args.remove_punctuation)
    if quality != "wer" and found != AS_WRITTEN:
        raise UsageError("--lowercase and --remove-punctuation belong to --quality wer")
    return found


def aggregation_of(args: argparse.Namespace) -> Aggregation:
    """Read the options of :func:`add_n_best_options`.

    Raises:
        UsageError: a temperature that is not above 0, or one without weights.
    """
    if args.nbest_temperature is not None and args.nbest_aggregation != "weighted":
        raise UsageError("--nbest-temperature belongs to --nbest-aggregation weighted")
    temperature = 1.0 if args.nbest_temperature is None else args.nbest_temperature
    try:
        return Aggregation(args.nbest_aggregation, temperature)
    except InputError as error:
        raise UsageError(f"--nbest-temperature: {error}") from error


def comparison_record(comparison: Comparison | None) -> dict[str, Any] | None:
    """Return what a JSON file holds of a comparison; None where there is none."""
    if comparison is None:
        return None
    return {**asdict(comparison), "signature": comparison.signature}


def format_comparison(
    comparison: Comparison | None, *, scale: float = 100.0, digits: int = 1
) -> str:
    """Return ``+1.2 [0.3, 2.1] p=0.012``; a dash where there is no comparison."""
    if comparison is None:
        return "–"
    text = format_estimate(comparison.difference, scale=scale, digits=digits)
    if comparison.difference.value > 0.0:
        text = "+" + text
    p_value = format_p_value(comparison)
    return text if p_value is None else f"{text} {p_value}"


def write_json(record: Mapping[str, Any], args: argparse.Namespace) -> bool:
    """Write --output and, with --json, print; returns whether tables are still to be printed."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    if args.output is not None:
        with atomic_write(args.output, overwrite=args.overwrite) as handle:
            handle.write(text + "\n")
    if args.json:
        print(text)
    return not args.json


def print_signatures(signatures: list[str]) -> None:
    """Print signatures to stderr, each once; the measure stands beside each number already."""
    rests = (signature.split("|", 1) for signature in signatures)
    lines = [rest if head.startswith("measure:") else f"{head}|{rest}" for head, rest in rests]
    print("\n" + "\n".join(dict.fromkeys(lines)), file=sys.stderr)
