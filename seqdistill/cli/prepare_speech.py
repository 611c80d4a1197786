"""``seqdistill prepare-speech``: from folders of speech to what models are trained from."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from seqdistill.cli.common import add_verb, positive, show_progress
from seqdistill.errors import UsageError
from seqdistill.speech.configuration import CMVN, POLICIES
from seqdistill.speech.pieces import TYPES
from seqdistill.speech.plan import AUDIO, PROBLEMS, Options
from seqdistill.speech.preparation import Preparation
from seqdistill.speech.problems import Tolerance, counts_text
from seqdistill.speech.survey import survey

_DESCRIPTION = """\
Prepare speech in LibriSpeech layout for training and decoding: 80 log-mel filterbanks of each
utterance, a manifest for each set, sentence pieces, and the configuration, in the form that
fairseq's speech_to_text task reads.

Every file is decoded. What cannot be used (damaged, empty, another rate, too short or too long,
audio without transcript and the reverse) is listed in OUTPUT/problems.tsv and counted; if it is
more than --max-problems of a set, or all of it, the command fails.

A killed command goes on where it was when it is repeated. Sets can be added to a finished folder:
repeat the command with another --split."""

_EXAMPLE = """\
seqdistill prepare-speech data/librispeech \\
    --split train=LibriSpeech/train-clean-100,LibriSpeech/train-clean-360 \\
    --split valid=LibriSpeech/dev-clean --split test=LibriSpeech/test-clean --specaugment ld
seqdistill prepare-speech data/an4 --split train=an4/LibriSpeech/train-an4 \\
    --split valid=an4/LibriSpeech/dev-an4 --split test=an4/LibriSpeech/test-an4 \\
    --split german=kerstin_de/LibriSpeech/ood-german --piece-type char --cmvn global"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "prepare-speech", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to make")
    parser.add_argument(
        "--split",
        action="append",
        required=True,
        metavar="NAME=FOLDER[,FOLDER…]",
        help="a set and its split folders (<speaker>/<chapter>/*.flac or *.wav, and *.trans.txt); "
        "'train' is the training set; a set other than that may have no transcripts at all. "
        "Once for each set",
    )
    _add_audio(parser)
    _add_pieces(parser)
    _add_running(parser)


def _add_audio(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("audio and features")
    group.add_argument(
        "--rate", type=positive, default=16000, metavar="HZ", help="samples a second; no other"
    )
    group.add_argument(
        "--min-seconds", type=float, default=0.1, metavar="S", help="shorter ones are left out"
    )
    group.add_argument(
        "--max-seconds", type=float, default=40.0, metavar="S", help="longer ones are left out"
    )
    group.add_argument(
        "--audio",
        choices=AUDIO,
        default="zip",
        help="keep features in one uncompressed zip a set (about 115 MB an hour), or compute them "
        "whenever they are read",
    )
    group.add_argument(
        "--cmvn",
        choices=CMVN,
        default="utterance",
        help="mean 0 and variance 1 of each band: in each utterance, by the training set's "
        "statistics, or not at all",
    )
    group.add_argument(
        "--specaugment",
        default="none",
        metavar=f"none|{'|'.join(POLICIES)}|FILE.yaml",
        help="masks in training: LibriSpeech basic or double, Switchboard mild or strong, or "
        "fairseq's keys in a file",
    )


def _add_pieces(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pieces")
    group.add_argument(
        "--pieces",
        type=positive,
        default=5000,
        metavar="N",
        help="size of the sentencepiece model, with 4 control symbols; 'char' has as many as there "
        "are characters, at most N",
    )
    group.add_argument("--piece-type", choices=TYPES, default="unigram", help="of the model")
    group.add_argument(
        "--piece-model", type=Path, metavar="FILE", help="use this model and train none"
    )
    group.add_argument(
        "--dictionary",
        type=Path,
        metavar="FILE",
        help="use this fairseq dictionary of --piece-model (default: all its pieces)",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="processes with one thread each (default: as many as there are processors)",
    )
    group.add_argument(
        "--max-problems",
        type=_tolerance,
        default="1%",
        metavar="N|P%",
        help="fail if more of a set's files than this cannot be used",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="begin a folder anew that was prepared before"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="print what would be done as JSON, and do nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the folder; returns the exit status."""
    options = _options(args)
    preparation = Preparation(options, _say)
    if args.dry_run:
        found = survey(options, preparation.state, preparation.list_sets())
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    record = preparation.run(partial(show_progress, unit="utterances"))
    for line in summary(record, options.output):
        _say(line)
    return 0


def summary(record: dict[str, Any], folder: Path) -> Iterator[str]:
    """Yield the lines that say what was made: one a set, and one of all."""
    sets: dict[str, dict[str, Any]] = record["sets"]
    for name, one in sets.items():
        left_out = counts_text(list(one["left_out"].items())) or "none"
        was_there = "" if name in record["made_now"] else " (was there before)"
        without = "" if one["has_transcripts"] else ", without transcripts"
        yield (
            f"{name}: {one['utterances']:,} utterances{without}, {one['seconds'] / 3600:.2f} h, "
            f"left out: {left_out}{was_there}"
        )
    left_out = sum(count for one in sets.values() for count in one["left_out"].values())
    yield (
        f"{folder}: {len(sets)} sets, {sum(one['utterances'] for one in sets.values()):,} "
        f"utterances, {sum(one['seconds'] for one in sets.values()) / 3600:.2f} h, "
        f"{left_out:,} left out{f' ({folder / PROBLEMS})' if left_out else ''}"
    )


def _options(args: argparse.Namespace) -> Options:
    splits: dict[str, list[str]] = {}
    for value in args.split:
        name, _, folders = value.partition("=")
        names = folders.split(",")
        if not name or not all(names):
            raise UsageError(f"--split: expected NAME=FOLDER[,FOLDER…], got {value!r}")
        splits.setdefault(name, []).extend(names)
    return Options(
        output=args.output,
        splits=splits,
        pieces=args.pieces,
        piece_type=args.piece_type,
        piece_model=args.piece_model,
        dictionary=args.dictionary,
        cmvn=args.cmvn,
        specaugment=args.specaugment,
        audio=args.audio,
        rate=args.rate,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        workers=args.workers or _processors(),
        max_problems=args.max_problems,
        overwrite=args.overwrite,
    )


def _processors() -> int:
    """How many this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _tolerance(text: str) -> Tolerance:
    try:
        return Tolerance.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a number or a percentage such as 1%, got {text!r}"
        ) from error
