"""``seqdistill calibrate``: a calibrator of a trained model, from a validation set."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqdistill.cli.common import (
    add_output_options,
    add_verb,
    positive,
    refuse_existing,
    show_progress,
)
from seqdistill.cli.with_fairseq import add_language_options, fairseq_at_hand
from seqdistill.errors import InputError, UsageError
from seqdistill.report.tables import format_table
from seqdistill.student import PREDICTIVES

_DESCRIPTION = """\
Calibrate the probabilities and uncertainties of a trained fairseq model; its outputs stay.

Runs the checkpoint over sentence pairs of DATA by teacher forcing and fits a small network, which
puts a Concrete distribution around each prediction (Esaki and others, AISTATS 2024). Its mean is
the calibrated prediction, in the same order as the model's. Decoding and scoring with --calibration
FILE find the same hypotheses with the same scores and report calibrated probabilities, and total,
data and knowledge uncertainty.

Prints negative log-likelihood of a token (nats) and expected calibration error (15 bins of equal
mass, %) of the model as it is, at a temperature, and calibrated. Each half of the sentences is
looked at with what was fitted on the other; the calibrator that is written is fitted on all. The
file is known by the model's weights: with another model it is refused."""

_EXAMPLE = """\
seqdistill calibrate data-bin --path student.pt --gen-subset valid --output student.calibrator
seqdistill translate --path student.pt --data data-bin -s en -t de \\
    --sentencepiece-model spm.model --calibration student.calibrator < news.en > news.jsonl"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "calibrate", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument("data", metavar="DATA", help="as fairseq-preprocess made it")
    parser.add_argument("--path", required=True, metavar="A.pt", help="the checkpoint")
    add_language_options(parser)
    parser.add_argument(
        "--config-yaml",
        metavar="NAME",
        help="speech: configuration in DATA, a folder of `seqdistill prepare-speech` (without it, "
        "DATA is text)",
    )
    parser.add_argument(
        "--gen-subset",
        default="valid",
        metavar="NAME",
        help="of DATA; not one that the model was trained on",
    )
    parser.add_argument(
        "--predictive",
        choices=PREDICTIVES,
        help="what a Dirichlet student decodes with (default: what its checkpoint says)",
    )
    parser.add_argument(
        "--max-sentences", type=positive, metavar="N", help="drawn at random (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn")
    parser.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help="tokens, or frames of speech, of a batch with padding (default: 4096, or 20000)",
    )
    parser.add_argument("--cpu", action="store_true", help="read on the CPU; the fit always is")
    fit = parser.add_argument_group("fit")
    fit.add_argument("--updates", type=positive, default=300, metavar="N", help="steps of Adam")
    fit.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="tokens of a step"
    )
    fit.add_argument("--lr", type=float, default=5e-3, metavar="RATE", help="falls linearly to 0")
    fit.add_argument(
        "--hidden", type=positive, default=32, metavar="N", help="units of the network"
    )
    fit.add_argument(
        "--reference-weight",
        type=float,
        default=1.0,
        metavar="W",
        help="of the references' likelihood under the calibrated prediction; 0: the published "
        "method alone",
    )
    fit.add_argument(
        "--simplex-weight",
        type=float,
        default=0.1,
        metavar="W",
        help="of synthetic points of the simplex under the Concrete distribution; 0 for none",
    )
    fit.add_argument(
        "--mixed", type=positive, default=4, metavar="K", help="positions mixed into such a point"
    )
    fit.add_argument(
        "--concentration",
        type=float,
        default=0.2,
        metavar="BETA",
        help="of the Dirichlet distribution of their weights",
    )
    add_output_options(parser, what="the calibrator, as safetensors", required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit, check and write; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    from seqdistill.assessment.calibrator_halves import HalvesComparison
    from seqdistill.uncertainty.calibrator_files import CalibratorFile, write_calibrator
    from seqdistill.uncertainty.calibrator_fit import CalibratorFit, CalibratorOptions

    try:
        options = CalibratorOptions(
            updates=args.updates,
            batch=args.batch_size,
            rate=args.lr,
            hidden=args.hidden,
            reference_weight=args.reference_weight,
            simplex_weight=args.simplex_weight,
            members=args.mixed,
            concentration=args.concentration,
            seed=args.seed,
        )
    except InputError as error:
        raise UsageError(str(error)) from error
    with fairseq_at_hand():
        from fairseq_plugins.calibration_fitting import CalibrationData, CalibrationReading

        data = CalibrationData(
            path=args.path,
            data=args.data,
            subset=args.gen_subset,
            source=args.source_lang,
            target=args.target_lang,
            config_yaml=args.config_yaml,
            predictive=args.predictive,
            max_sentences=args.max_sentences,
            seed=args.seed,
            max_tokens=args.max_tokens or (4096 if args.config_yaml is None else 20_000),
            use_cpu=args.cpu,
        )
        reading = CalibrationReading(data)
        show_progress("reading", 0, reading.sentences, reading.read())
        tokens = reading.tokens()
    comparison = HalvesComparison(tokens, options)
    show_progress("halves", 0, comparison.steps, comparison.run(), unit="updates")
    fit = CalibratorFit(tokens, options)
    show_progress("fit", 0, options.updates, fit.run(), unit="updates")
    results = {name: asdict(one) for name, one in comparison.results().items()}
    made = CalibratorFile(
        fit.calibrator,
        Path(args.path).name,
        reading.predictive,
        reading.weights,
        {"data": asdict(data), "fit": asdict(options)},
        results,
    )
    write_calibrator(args.output, made, overwrite=args.overwrite)
    print(f"{len(tokens.targets)} tokens of {reading.sentences} sentences", file=sys.stderr)
    print(_table(results))
    return 0


def _table(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, " ".join(f"{T:.3f}" for T in one["temperatures"]) or "–", f"{one['nll']:.4f}",
         f"{100 * one['ece']:.2f}"]
        for name, one in results.items()
    ]  # fmt: skip
    return format_table(["on held-out halves", "T", "NLL", "ECE (mass)"], rows, "plain")
