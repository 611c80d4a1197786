"""``seqdistill transcribe``: speech to text with its uncertainty, and an alarm out of domain."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqdistill.assessment.hypothesis_files import describe_model
from seqdistill.cli.alarm import FIELDS, add_alarm_options, alarm_of, write_hypotheses
from seqdistill.cli.common import add_output_options, add_verb, refuse_existing
from seqdistill.cli.decoding import (
    add_search_options,
    add_speech_model_options,
    add_uncertainty_options,
    check_n_best,
    uncertainty_options,
    with_progress,
)
from seqdistill.cli.with_fairseq import fairseq_at_hand
from seqdistill.errors import InputError
from seqdistill.hypotheses import Hypothesis

if TYPE_CHECKING:
    from fairseq_plugins.generation.transcriber import Transcriber

#: Kinds of files that are taken from folders.
AUDIO = (".flac", ".wav", ".ogg")

_DESCRIPTION = (
    """\
Transcribe audio with a fairseq S2T checkpoint or an ensemble, and say how uncertain each is.

Takes audio files, and folders with such files at any depth, and writes one JSON object an
utterance: the hypothesis with its text and uncertainty (the fields of --uncertainty-output;
`source` is the file), and
"""
    + FIELDS
    + """

Files that cannot be read are named on stderr; the others are transcribed, and the exit status
is 1."""
)

_EXAMPLE = """\
seqdistill transcribe interview.flac recordings/ --path student.pt --data prepared \\
    --calibrate valid.jsonl --output interview.jsonl"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "transcribe", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "audio",
        nargs="+",
        metavar="AUDIO",
        help=f"audio files, or folders ({', '.join(AUDIO)}), an utterance a file",
    )
    add_speech_model_options(parser)
    search = add_search_options(parser, unit="utterances", many=8)
    search.add_argument(
        "--max-len", type=int, default=200, metavar="N", help="transcripts have at most N pieces"
    )
    add_uncertainty_options(parser)
    add_alarm_options(parser)
    add_output_options(parser, what="write here instead of to stdout")


def run(args: argparse.Namespace) -> int:
    """Transcribe files; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    check_n_best(args)
    paths = audio_files(args.audio)
    alarm = alarm_of(args)
    with fairseq_at_hand():
        from fairseq_plugins.generation.transcriber import Transcriber

        transcriber = Transcriber(
            [path for path in args.path.split(os.pathsep) if path],
            args.data,
            config_yaml=args.config_yaml,
            beam=args.beam,
            max_len=args.max_len,
            predictive=args.predictive,
            use_cpu=args.cpu,
            options=uncertainty_options(args, also=args.measure),
            feature_density=args.feature_density,
            calibration=args.calibration,
        )
    alarm.check(transcriber.model)
    print(f"decoding with {describe_model(transcriber.model)}", file=sys.stderr)
    unreadable: list[InputError] = []
    found = _transcribed(transcriber, paths, args.batch_size, args.nbest, unreadable)
    write_hypotheses(with_progress(found), alarm, args, "utterances")
    if unreadable:
        print(f"{len(unreadable)} of {len(paths)} files could not be read", file=sys.stderr)
    return 1 if unreadable else 0


def audio_files(given: Sequence[str]) -> list[str]:
    """Return the files that arguments name, those of a folder sorted.

    Raises:
        InputError: one does not exist, or a folder has no audio.
    """
    found: list[str] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO)
            if not inside:
                raise InputError(f"{name}: no audio ({', '.join(AUDIO)}) in this folder")
            found += map(str, inside)
        elif path.is_file():
            found.append(name)
        else:
            raise InputError(f"{name}: no such file or folder")
    return found


def _transcribed(
    transcriber: "Transcriber",
    paths: Sequence[str],
    batch_size: int,
    n_best: int,
    unreadable: list[InputError],
) -> Iterator[Hypothesis]:
    """Yield the hypotheses of all files that can be read, numbered as the files are."""

    def read() -> Iterator[tuple[int, str, Any]]:
        for number, path in enumerate(paths):
            try:
                features = transcriber.read(path)
            except InputError as error:
                unreadable.append(error)
                print(f"left out: {error}", file=sys.stderr)
            else:
                yield number, path, features

    readable = read()
    while batch := list(islice(readable, batch_size)):
        yield from transcriber.transcribe(batch, n_best=n_best)
