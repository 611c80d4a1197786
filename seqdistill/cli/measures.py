"""``seqdistill measures``: every measure of uncertainty, who has it and its formula."""

import argparse
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from seqdistill.cli.common import add_verb
from seqdistill.uncertainty.measures import MEASURES, MODEL_KINDS, Measure

_DESCRIPTION = """\
List the measures of uncertainty: their names in the JSONL, levels, formulas and sources.

Letters: M members p_m with mean p̄, V pieces, L tokens of a hypothesis y; a Dirichlet student has
concentrations α = e^z + offset, precision α₀ and digamma ψ. Logarithms are natural. Members make
one model of sequences as a product of expectations (pe) or an expectation of products (ep)."""

_EXAMPLE = """\
seqdistill measures
seqdistill measures --model dirichlet --level sequence
seqdistill measures --format json > measures.json"""

_NOTES = """\
models: * computes it by default; + only with --dirichlet-samples. Others are computed when
--uncertainty-measures names them ("all" for every one), but for estimates from outputs, which
`seqdistill disagreement` adds, and from features, which --feature-density adds. A measure of tokens
has a value for the sequence, too: the mean over its positions. Higher means more uncertain, but for
(!)."""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "measures", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="how they are listed"
    )
    parser.add_argument("--model", choices=MODEL_KINDS, help="only those that this kind has")
    parser.add_argument("--level", choices=("token", "sequence"), help="only those of this level")


def run(args: argparse.Namespace) -> int:
    """List the measures; returns the exit status."""
    chosen = [
        measure
        for measure in MEASURES.values()
        if (args.model is None or args.model in measure.needs)
        and (args.level is None or args.level == measure.level)
    ]
    if args.format == "json":
        print(json.dumps([asdict(measure) for measure in chosen], ensure_ascii=False, indent=2))
    else:
        print(_table(chosen))
    return 0


def _table(measures: Sequence[Measure]) -> str:
    sources = list(dict.fromkeys(measure.source for measure in measures))
    rows = [
        ("name", "symbol", "level", "estimate", "combination", "models", "unit", "formula"),
        *(
            (
                measure.name + ("" if measure.higher_is_more_uncertain else " (!)"),
                measure.symbol,
                measure.level,
                measure.estimate,
                measure.combination or "any",
                " ".join(_marked(measure)),
                measure.unit,
                f"{measure.formula} [{sources.index(measure.source) + 1}]",
            )
            for measure in measures
        ),
    ]
    widths = [max(_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    cited = [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    return "\n".join([*lines, "", _NOTES, "", *cited])


def _marked(measure: Measure) -> Iterable[str]:
    """Return the kinds that have a measure, with their marks."""
    for kind in measure.needs:
        mark = "+" if kind in measure.needs_samples else ""
        yield kind + ("*" if kind in measure.default_for else mark)


def _width(text: str) -> int:
    """Return how many columns a text takes: an accent over a letter takes none."""
    return sum(not unicodedata.combining(letter) for letter in text)
