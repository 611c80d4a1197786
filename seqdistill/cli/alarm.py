"""The out-of-domain alarm of the verbs that decode: its options, its threshold, its records."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import IO

from seqdistill.assessment.hypothesis_files import describe_model, read_set
from seqdistill.assessment.n_best import Aggregation, average
from seqdistill.assessment.threshold import ood_threshold
from seqdistill.cli.comparisons import add_n_best_options, aggregation_of
from seqdistill.errors import InputError, UsageError
from seqdistill.files import atomic_write
from seqdistill.hypotheses import Hypothesis, ModelInfo
from seqdistill.uncertainty.measures import MEASURES

#: The fields of a record beside those of a hypothesis, for the descriptions of verbs.
FIELDS = """\
  ood          true if the measure is above the threshold, null if there is none
  ood_measure  its name
  threshold    given, or calibrated on the in-domain sentences of --calibrate"""


def add_alarm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the alarm."""
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


@dataclass(frozen=True)
class Alarm:
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


def alarm_of(args: argparse.Namespace) -> Alarm:
    """Read the options of :func:`add_alarm_options`; a calibrated threshold is said on stderr.

    Raises:
        UsageError: a measure that is unknown or points the wrong way.
        InputError: the sentences of --calibrate do not fit.
    """
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
        return Alarm(args.measure, args.threshold, None, aggregation)
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
    return Alarm(args.measure, threshold, in_domain[0].model, aggregation)


def write_hypotheses(
    found: Iterable[Hypothesis], alarm: Alarm, args: argparse.Namespace, what: str
) -> int:
    """Write hypotheses with the fields of the alarm, and say at the end how many there were.

    Args:
        found: those of a sentence follow each other.
        alarm: says which are out of domain.
        args: of the output, see ``add_output_options``.
        what: is counted, ``sentences``.

    Returns:
        The number of sentences.
    """
    to_file = args.output is not None
    output = (
        atomic_write(args.output, overwrite=args.overwrite) if to_file else nullcontext(sys.stdout)
    )
    count = alarms = 0
    with output as handle:
        for _, of_one in groupby(found, key=lambda hypothesis: hypothesis.id):
            hypotheses = list(of_one)
            is_ood = alarm.is_raised(hypotheses)
            for hypothesis in hypotheses:
                _write(handle, hypothesis, is_ood, alarm)
            count += 1
            alarms += bool(is_ood)
    summary = f"{count} {what}"
    if alarm.threshold is not None:
        summary += f", {alarms} with {alarm.measure} above {alarm.threshold:.4f}"
    print(summary, file=sys.stderr)
    return count


def _write(handle: IO[str], hypothesis: Hypothesis, is_ood: bool | None, alarm: Alarm) -> None:
    record = asdict(hypothesis)
    record |= {"ood": is_ood, "ood_measure": alarm.measure, "threshold": alarm.threshold}
    handle.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    handle.flush()
