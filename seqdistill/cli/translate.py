"""``seqdistill translate``: text with its uncertainty, and an alarm when it is out of domain."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import IO, TYPE_CHECKING, Any

from seqdistill.assessment.hypothesis_files import describe_model, read_set
from seqdistill.assessment.n_best import Aggregation, average
from seqdistill.assessment.threshold import ood_threshold
from seqdistill.cli.common import add_output_options, add_verb, refuse_existing
from seqdistill.cli.comparisons import add_n_best_options, aggregation_of
from seqdistill.cli.decoding import (
    add_model_options,
    add_uncertainty_options,
    load_translator,
    positive,
    uncertainty_options,
    with_progress,
)
from seqdistill.errors import InputError, UsageError
from seqdistill.files import atomic_write
from seqdistill.hypotheses import Hypothesis, ModelInfo
from seqdistill.uncertainty.measures import MEASURES

if TYPE_CHECKING:
    from fairseq_plugins.generation.translator import Translator

_DESCRIPTION = """\
Translate lines of text with a fairseq checkpoint or an ensemble, and say how uncertain each is.

Reads one sentence a line from stdin and writes one JSON object a line: the hypothesis with its
text and uncertainty (the fields of --uncertainty-output), and
  ood          true if the measure is above the threshold, null if there is none
  ood_measure  its name
  threshold    given, or calibrated on the in-domain sentences of --calibrate"""

_EXAMPLE = """\
seqdistill translate --path student.pt --data data-bin -s en -t de \\
    --sentencepiece-model spm.model --calibrate valid.jsonl < news.en > news.jsonl"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(
        subparsers,
        "translate",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    add_model_options(
        parser,
        sentencepiece_help="segments the lines; without it they must come in pieces, with spaces "
        "between",
    )
    search = parser.add_argument_group("search")
    search.add_argument("--beam", type=positive, default=5, metavar="N", help="size of the beam")
    search.add_argument(
        "--max-len-a",
        type=float,
        default=1.2,
        metavar="A",
        help="at most A · source length + B pieces, of the longest source decoded together",
    )
    search.add_argument("--max-len-b", type=int, default=10, metavar="B", help="see --max-len-a")
    search.add_argument(
        "--nbest",
        type=positive,
        default=1,
        metavar="N",
        help="hypotheses written of each line, best first; at most the beam",
    )
    search.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="lines decoded together"
    )
    add_uncertainty_options(parser)
    alarm = parser.add_argument_group("out-of-domain alarm")
    source = alarm.add_mutually_exclusive_group()
    source.add_argument(
        "--calibrate",
        metavar="FILE",
        help="JSONL of in-domain sentences, decoded with the same models",
    )
    source.add_argument("--threshold", type=float, metavar="X", help="the measure's threshold")
    alarm.add_argument(
        "--false-positive-rate",
        type=float,
        default=0.05,
        metavar="RATE",
        help="share of the in-domain sentences of --calibrate that may raise the alarm",
    )
    alarm.add_argument(
        "--measure",
        default="joint_total_uncertainty_pe",
        metavar="NAME",
        help="that raises the alarm; `seqdistill measures` lists them",
    )
    add_n_best_options(alarm)
    add_output_options(parser, what="write here instead of to stdout")


def run(args: argparse.Namespace) -> int:
    """Translate stdin; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    if args.nbest > args.beam:
        raise UsageError(f"--nbest {args.nbest}: a beam of {args.beam} finds no more than that")
    alarm = _alarm(args)
    translator = load_translator(
        args,
        uncertainty_options(args, also=args.measure),
        beam=args.beam,
        max_len_a=args.max_len_a,
        max_len_b=args.max_len_b,
    )
    alarm.check(translator.model)
    print(f"decoding with {describe_model(translator.model)}", file=sys.stderr)

    # Somebody who types wants an answer to each line.
    batch_size = 1 if sys.stdin.isatty() else args.batch_size
    to_file = args.output is not None
    output = (
        atomic_write(args.output, overwrite=args.overwrite) if to_file else nullcontext(sys.stdout)
    )
    count = alarms = 0
    with output as handle:
        found = with_progress(_translated(translator, sys.stdin, batch_size, args.nbest))
        for _, of_line in groupby(found, key=lambda hypothesis: hypothesis.id):
            hypotheses = list(of_line)
            is_ood = alarm.is_raised(hypotheses)
            for hypothesis in hypotheses:
                _write(handle, hypothesis, is_ood, alarm)
            count += 1
            alarms += bool(is_ood)
    summary = f"{count} sentences"
    if alarm.threshold is not None:
        summary += f", {alarms} with {alarm.measure} above {alarm.threshold:.4f}"
    print(summary, file=sys.stderr)
    return 0


@dataclass(frozen=True)
class _Alarm:
    """A measure, the threshold above which it raises the alarm, and the models it was set for.

    The measure is that of the best hypothesis, or as ``aggregation`` has it of the n-best list.
    """

    measure: str
    threshold: float | None
    model: ModelInfo | None
    aggregation: Aggregation

    def check(self, model: ModelInfo) -> None:
        """Raise an :class:`InputError` unless the alarm fits the models that decode."""
        if self.model is not None and self.model != model:
            raise InputError(
                f"--calibrate was decoded by {describe_model(self.model)}, and --path is "
                f"{describe_model(model)}; their uncertainties do not compare, so decode the "
                "in-domain sentences with the same models"
            )

    def is_raised(self, hypotheses: Sequence[Hypothesis]) -> bool | None:
        """Return whether a sentence is out of domain by its n-best list, None without a threshold.

        Raises:
            InputError: the hypotheses have no such measure.
        """
        if self.threshold is None:
            return None
        values = average(hypotheses, self.aggregation)
        if self.measure not in values:  # a relative distance, by a density without a background
            raise InputError(
                f"--measure {self.measure}: not in the hypotheses, which have {', '.join(values)}; "
                "fit the density with --background for relative distances"
            )
        return values[self.measure] > self.threshold


def _alarm(args: argparse.Namespace) -> _Alarm:
    if args.measure not in MEASURES:
        raise UsageError(f"--measure {args.measure}: unknown; known are {', '.join(MEASURES)}")
    if not MEASURES[args.measure].higher_is_more_uncertain:
        raise UsageError(
            f"--measure {args.measure}: it is there for comparison only, and higher does not mean "
            "more uncertain; choose another"
        )
    aggregation = aggregation_of(args)
    if aggregation.kind != "top" and args.nbest == 1:
        raise UsageError(f"--nbest-aggregation {aggregation.kind} needs --nbest N, N at least 2")
    if args.calibrate is None:
        return _Alarm(args.measure, args.threshold, None, aggregation)
    calibration = read_set(args.calibrate, aggregation)
    if calibration.n_best is not None and calibration.n_best.largest != args.nbest:
        raise InputError(
            f"{args.calibrate} has up to {calibration.n_best.largest} hypotheses a sentence, and "
            f"--nbest is {args.nbest}; decode both with one --nbest"
        )
    in_domain = calibration.hypotheses
    scores = [h.uncertainty.get(args.measure) for h in in_domain]
    if None in scores:
        raise InputError(
            f"{args.calibrate}: sentence {in_domain[scores.index(None)].id} has no {args.measure}; "
            f"choose a --measure of {', '.join(in_domain[0].uncertainty)}"
        )
    threshold = ood_threshold(scores, args.false_positive_rate)
    print(
        f"threshold {threshold:.4f} of {args.measure}: at most {args.false_positive_rate:.1%} of "
        f"{len(scores)} in-domain sentences are above it",
        file=sys.stderr,
    )
    return _Alarm(args.measure, threshold, in_domain[0].model, aggregation)


def _translated(
    translator: "Translator", lines: Iterable[str], batch_size: int, n_best: int
) -> Iterator[Hypothesis]:
    """Yield the hypotheses of all lines, in their order, a batch at a time."""
    stripped = (line.rstrip("\r\n") for line in lines)
    count = 0
    while batch := list(islice(stripped, batch_size)):
        yield from translator.translate(batch, first_id=count, n_best=n_best)
        count += len(batch)


def _write(handle: IO[str], hypothesis: Hypothesis, is_ood: bool | None, alarm: _Alarm) -> None:
    record = asdict(hypothesis)
    record |= {"ood": is_ood, "ood_measure": alarm.measure, "threshold": alarm.threshold}
    handle.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    handle.flush()
