"""``seqdistill wer``: word errors of transcripts, and differences between systems."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from seqdistill.assessment.bootstrap import Comparison
from seqdistill.assessment.hypothesis_files import HypothesisSet, read_set
from seqdistill.assessment.hypothesis_sets import assess_word_errors
from seqdistill.assessment.numbers import compare_numbers
from seqdistill.assessment.word_alignment import Normalisation, align_words
from seqdistill.assessment.word_errors import ERROR_RATES, WordErrors
from seqdistill.cli.common import add_verb, named_paths, refuse_existing
from seqdistill.cli.comparisons import (
    add_normalisation_options,
    add_result_options,
    comparison_record,
    format_comparison,
    normalisation_of,
    print_signatures,
    write_json,
)
from seqdistill.errors import InputError, UsageError
from seqdistill.report.alignments import format_alignment
from seqdistill.report.tables import Style, format_estimate, format_table

SCHEMA = "seqdistill.wer/1"

_DESCRIPTION = """\
Count the word errors of transcripts.

Reads the best hypothesis of each utterance and its reference from JSONL and prints a table: rows
are systems and sets, columns are numbers in per cent with 95 % bootstrap intervals: word error
rate, its substitutions, insertions and deletions, utterances with any error (SER) and character
error rate; lower is better. With several systems a table of differences from the first follows,
with paired-bootstrap p-values. Sets without references have no errors to count and are left out."""

_EXAMPLE = """\
seqdistill wer test.jsonl --show 5
seqdistill wer ensemble=ensemble/test.jsonl student=student/test.jsonl --output wer.json
seqdistill wer ensemble=decode/ensemble student=decode/proxy --set test --set digits"""

Found = dict[tuple[str, str | None], tuple[HypothesisSet, WordErrors | None]]


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "wer", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "systems",
        nargs="+",
        metavar="[NAME=]PATH",
        help="a system's transcripts of one set, or with --set its folder of them",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME",
        dest="sets",
        help="read NAME.jsonl in every folder; may be given several times",
    )
    parser.add_argument(
        "--references",
        metavar="TEXT",
        help="references, one line an utterance (default: those in the transcripts)",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="print the alignments of the N utterances with the most errors",
    )
    add_normalisation_options(parser)
    add_result_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    if args.show < 0:
        raise UsageError(f"--show: expected 0 or more, got {args.show}")
    if args.references is not None and len(args.sets) > 1:
        raise UsageError("--references: one file is of one set; give one --set at a time")
    normalisation = normalisation_of(args)
    found = _assess(args, normalisation)
    pairs = _compare(found)
    worst = {key: _worst(args.show, *value, normalisation) for key, value in found.items()}
    record = {
        "schema": SCHEMA,
        "normalisation": asdict(normalisation),
        "results": [
            {
                "system": system,
                "set": name,
                "file": one.path,
                "model": asdict(one.model),
                "errors": errors and {**errors.to_dict(), "utterances": _utterances(one, errors)},
                "worst": worst[system, name],
            }
            for (system, name), (one, errors) in found.items()
        ],
        "comparisons": [
            {
                "system": system,
                "versus": first,
                "set": name,
                "numbers": {rate: comparison_record(c) for rate, c in row.items()},
            }
            for (system, first, name), row in pairs.items()
        ],
    }
    if not write_json(record, args):
        return 0
    style: Style = "markdown" if args.markdown else "plain"
    _print_table(found, style)
    if pairs:
        _print_differences(pairs, style)
    for (system, name), utterances in worst.items():
        for utterance in utterances:
            _print_worst(_title(system, name), utterance)
    known = [errors for _, errors in found.values() if errors is not None]
    # Those of the other rates are like that of WER.
    print_signatures([e.rates.signatures[rate] for rate in ("wer", "cer") for e in known])
    return 0


def _assess(args: argparse.Namespace, normalisation: Normalisation) -> Found:
    """By system and set (None where files were given): the transcripts and their errors."""
    found: Found = {}
    systems = named_paths(args.systems, "the systems")
    for name in args.sets or [None]:
        for system, path in systems.items():
            one = read_set(_file(path, name))
            if args.references is not None:
                one = one.with_references(args.references)
            found[system, name] = one, _errors(one, args, normalisation)
    if all(errors is None for _, errors in found.values()):
        paths = ", ".join(one.path for one, _ in found.values())
        raise InputError(f"{paths}: no utterance has a reference; give --references")
    return found


def _errors(
    one: HypothesisSet, args: argparse.Namespace, normalisation: Normalisation
) -> WordErrors | None:
    if one.hypotheses[0].forced:
        raise InputError(
            f"{one.where(0)}: a given text was scored here, not searched for, so it has no errors "
            "of recognition; give what was decoded"
        )
    if any(hypothesis.reference is not None for hypothesis in one.hypotheses):
        one.references()  # names the line that has none
    return assess_word_errors(
        one.hypotheses, normalisation=normalisation, resamples=args.bootstrap, seed=args.seed
    )


def _file(path: str, name: str | None) -> Path:
    """The file of a system: as given, or that of a set in its folder."""
    place = Path(path)
    if not place.is_dir():
        if name is not None:
            raise InputError(f"{place}: not a folder; --set {name} reads {name}.jsonl in folders")
        return place
    there = ", ".join(sorted(file.stem for file in place.glob("*.jsonl"))) or "none"
    if name is None:
        raise InputError(f"{place} is a folder: say with --set which of its sets: {there}")
    if not (place / f"{name}.jsonl").is_file():
        raise InputError(f"{place}: there is no {name}.jsonl; sets there: {there}")
    return place / f"{name}.jsonl"


def _compare(
    found: Found,
) -> dict[tuple[str, str, str | None], dict[str, Comparison | None]]:
    """By system, first system and set: the differences of their rates."""
    pairs = {}
    firsts: dict[str | None, tuple[str, HypothesisSet, WordErrors]] = {}
    for (system, name), (one, errors) in found.items():
        if errors is None:
            continue
        first, other, theirs = firsts.setdefault(name, (system, one, errors))
        if first != system:
            _require_same_references(one, other)
            pairs[system, first, name] = compare_numbers(errors.rates, theirs.rates)
    return pairs


def _require_same_references(one: HypothesisSet, other: HypothesisSet) -> None:
    one.require_same_sentences(other)
    for index, pair in enumerate(zip(one.hypotheses, other.hypotheses, strict=True)):
        if pair[0].reference != pair[1].reference:
            raise InputError(
                f"{one.where(index)}: the reference of utterance {pair[0].id} is not that of "
                f"{other.where(index)}; two systems are compared against the same references"
            )


def _utterances(one: HypothesisSet, errors: WordErrors) -> dict[str, list[Any]]:
    """Counts in words of every utterance, a column each."""
    columns = {name: column.tolist() for name, column in vars(errors.words).items()}
    return {"id": [hypothesis.id for hypothesis in one.hypotheses], **columns}


def _worst(
    count: int, one: HypothesisSet, errors: WordErrors | None, normalisation: Normalisation
) -> list[dict[str, Any]]:
    """The utterances with the most errors, the higher rate first where as many."""
    if errors is None:
        return []
    order = np.lexsort((-errors.words.rates, -errors.words.edits))
    chosen = [int(index) for index in order[:count] if errors.words.edits[index] > 0]
    return [
        {
            "id": one.hypotheses[index].id,
            "source": one.hypotheses[index].source,
            "edits": int(errors.words.edits[index]),
            "reference": int(errors.words.reference[index]),
            "alignment": align_words(
                one.hypotheses[index].text,
                one.hypotheses[index].reference or "",
                normalisation=normalisation,
            ),
        }
        for index in chosen
    ]


def _print_table(found: Found, style: Style) -> None:
    labels = [f"{label}, %" for label in ERROR_RATES.values()]
    rows = []
    for (system, name), (one, errors) in found.items():
        if errors is None:
            print(f"{_title(system, name)}: no references in {one.path}", file=sys.stderr)
            continue
        numbers = errors.rates.numbers.values()
        rows.append(
            [
                _title(system, name),
                str(errors.rates.n),
                str(errors.words.to_dict()["reference"]),
                *("–" if number is None else format_estimate(number) for number in numbers),
            ]
        )
    print(format_table(["system", "utterances", "words", *labels], rows, style))


def _print_differences(
    pairs: Mapping[tuple[str, str, str | None], Mapping[str, Comparison | None]], style: Style
) -> None:
    rows = [
        [
            f"{_title(system, name)} − {first}",
            *(format_comparison(row[rate]) for rate in ERROR_RATES),
        ]
        for (system, first, name), row in pairs.items()
    ]
    print()
    print(format_table(["difference, points", *ERROR_RATES.values()], rows, style))


def _print_worst(title: str, utterance: Mapping[str, Any]) -> None:
    known = "" if utterance["source"] is None else f" ({utterance['source']})"
    print(
        f"\n{title}, utterance {utterance['id']}{known}: errors {utterance['edits']}, "
        f"reference words {utterance['reference']}\n{format_alignment(utterance['alignment'])}"
    )


def _title(system: str, name: str | None) -> str:
    return system if name is None else f"{system}, {name}"
