"""``seqdistill score``: how uncertain models are about translations that are given."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqdistill.assessment.hypothesis_sets import describe_model
from seqdistill.cli.common import add_output_options, add_verb, positive, refuse_existing
from seqdistill.cli.decoding import (
    add_model_options,
    add_uncertainty_options,
    load_translator,
    uncertainty_options,
    with_progress,
)
from seqdistill.errors import InputError, UsageError
from seqdistill.files import atomic_write
from seqdistill.hypotheses import Hypothesis, read_hypotheses
from seqdistill.student import PREDICTIVES
from seqdistill.uncertainty.options import COMBINATIONS
from seqdistill.uncertainty.second_reading import read_temperatures

if TYPE_CHECKING:
    from fairseq_plugins.generation.translator import Translator

_DESCRIPTION = """\
Force-decode given translations with a checkpoint or an ensemble, and say how uncertain each is.

The translations are references, another system's output, anything: lines of two files, or the
hypotheses of a JSONL file. Writes one JSON object a line, as `seqdistill translate` does, with
"forced": true, the largest probability at each position and whether the given piece has it.

With --against a second system, such as a student's ensemble, reads the same prefixes in the same
pass; every token then has the exact KL(p_second||p) (nats) and whether both find the same piece the
most probable, for `seqdistill fidelity`. With --temperatures it is recorded what each temperature
would make of the predictions, for `seqdistill calibration --validation`."""

_EXAMPLE = """\
seqdistill score --path a.pt:b.pt:c.pt --data data-bin -s en -t de \\
    --sentencepiece-model spm.model --source test.en --translations test.de --output forced.jsonl
seqdistill score --path a.pt:b.pt:c.pt --data data-bin -s en -t de --ensemble-combination ep \\
    --sentencepiece-model spm.model --hypotheses student.jsonl --output scored.jsonl
seqdistill score --path student.pt --against a.pt:b.pt:c.pt --temperatures default \\
    --data data-bin -s en -t de --sentencepiece-model spm.model --source test.en \\
    --translations test.de --output forced.student.jsonl"""


@dataclass(frozen=True)
class _Pair:
    """A translation to be scored, with the place in an n-best list that it may come from."""

    id: int
    rank: int
    source: str
    text: str
    reference: str | None


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "score", description=_DESCRIPTION, example=_EXAMPLE)
    texts = parser.add_argument_group("texts")
    texts.add_argument("--source", metavar="FILE", help="sources, one a line")
    texts.add_argument("--translations", metavar="FILE", help="their translations, one a line")
    texts.add_argument(
        "--references", metavar="FILE", help="recorded beside the translations, one a line"
    )
    texts.add_argument(
        "--hypotheses",
        metavar="FILE",
        help="JSONL instead of the three: its sources, texts and references",
    )
    models = add_model_options(
        parser,
        sentencepiece_help="segments both sides; without it they must come in pieces, with spaces "
        "between",
    )
    models.add_argument(
        "--target-sentencepiece-model",
        metavar="FILE",
        help="segments the translations, where they have a model of their own",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="lines scored together"
    )
    add_uncertainty_options(parser)
    second = parser.add_argument_group("exact comparisons")
    second.add_argument(
        "--against",
        metavar="A.pt[:B.pt…]",
        help="checkpoints of a second system with the same dictionaries, with colons between them",
    )
    second.add_argument(
        "--against-combination",
        choices=COMBINATIONS,
        default="pe",
        help="how its members make one model",
    )
    second.add_argument(
        "--against-predictive",
        choices=PREDICTIVES,
        help="what it decodes with, where it is a Dirichlet student (default: what its checkpoint "
        "says)",
    )
    second.add_argument(
        "--temperatures",
        metavar="A,B,…",
        help="temperatures with commas between them, or default: 17 from 0.5 to 2",
    )
    add_output_options(parser, what="write here instead of to stdout")


def run(args: argparse.Namespace) -> int:
    """Score the texts; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    pairs = _pairs(args)
    try:
        temperatures = read_temperatures(args.temperatures)
    except InputError as error:
        raise UsageError(f"--temperatures: {error}") from error
    translator = load_translator(
        args,
        uncertainty_options(args),
        target_sentencepiece_model=args.target_sentencepiece_model,
        against=[path for path in (args.against or "").split(os.pathsep) if path],
        against_combination=args.against_combination,
        against_predictive=args.against_predictive,
        temperatures=temperatures,
    )
    print(f"scoring with {describe_model(translator.model)}", file=sys.stderr)
    if translator.against is not None:
        print(f"against {describe_model(translator.against)}", file=sys.stderr)
    output = (
        nullcontext(sys.stdout)
        if args.output is None
        else atomic_write(args.output, overwrite=args.overwrite)
    )
    with output as handle:
        for hypothesis in with_progress(_scored(translator, iter(pairs), args.batch_size)):
            handle.write(hypothesis.to_json() + "\n")
    print(f"{len(pairs)} sentences", file=sys.stderr)
    return 0


def _pairs(args: argparse.Namespace) -> list[_Pair]:
    """Read what is to be scored.

    Raises:
        UsageError: not exactly one of the two ways to give it.
        InputError: a file is missing or not text, or the files do not fit each other.
    """
    lines = [args.source, args.translations, args.references]
    if args.hypotheses is not None:
        if any(path is not None for path in lines):
            raise UsageError("--hypotheses holds sources and translations; give no other text")
        return [_pair_of(h, args.hypotheses) for h in read_hypotheses(args.hypotheses)]
    if args.source is None or args.translations is None:
        raise UsageError("expected --source and --translations, or --hypotheses")
    sources, translations = _read_lines(args.source), _read_lines(args.translations)
    _check_length(translations, args.translations, sources, args.source)
    references: list[str | None] = [None] * len(sources)
    if args.references is not None:
        references = list(_read_lines(args.references))
        _check_length(references, args.references, sources, args.source)
    lines_together = zip(sources, translations, references, strict=True)
    return [_Pair(number, 0, *together) for number, together in enumerate(lines_together)]


def _pair_of(hypothesis: Hypothesis, path: str) -> _Pair:
    if hypothesis.source is None:
        raise InputError(
            f"{path}: sentence {hypothesis.id} has no source text; only hypotheses with one can be "
            "scored"
        )
    return _Pair(
        hypothesis.id, hypothesis.rank, hypothesis.source, hypothesis.text, hypothesis.reference
    )


def _read_lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected a text, one sentence a line")
    try:
        with open(path, encoding="utf-8", newline="\n") as handle:
            lines = [line.rstrip("\r\n") for line in handle]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason})") from error
    if not lines:
        raise InputError(f"{path}: the file is empty; expected at least one line")
    return lines


def _check_length(lines: list[Any], path: str, sources: list[str], source_path: str) -> None:
    if len(lines) != len(sources):
        raise InputError(
            f"{path} has {len(lines)} lines and {source_path} has {len(sources)}; the same line of "
            "both must belong together"
        )


def _scored(
    translator: "Translator", pairs: Iterator[_Pair], batch_size: int
) -> Iterator[Hypothesis]:
    """Yield the scored hypotheses, in their order, a batch at a time."""
    count = 0
    while batch := list(islice(pairs, batch_size)):
        scored = translator.score(
            [pair.source for pair in batch],
            [pair.text for pair in batch],
            [pair.reference for pair in batch],
            first_id=count,
        )
        count += len(batch)
        for pair, hypothesis in zip(batch, scored, strict=True):
            yield replace(hypothesis, id=pair.id, rank=pair.rank)
