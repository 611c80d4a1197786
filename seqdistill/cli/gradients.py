"""``seqdistill gradients``: which classes the gradients of the losses are about, by their rank."""

import argparse
import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from seqdistill.cli.common import (
    add_bootstrap_options,
    add_output_options,
    add_verb,
    named_paths,
    positive,
    refuse_existing,
    show_progress,
)
from seqdistill.cli.with_fairseq import add_language_options, fairseq_at_hand
from seqdistill.files import atomic_write
from seqdistill.kernels.backend import KINDS
from seqdistill.losses.proxy_dirichlet import NORMALISATIONS
from seqdistill.targets.proxy import CONCENTRATIONS

if TYPE_CHECKING:
    from fairseq_plugins.gradient_ranks import GradientOptions

_DESCRIPTION = """\
Measure which classes of the vocabulary the gradient of each distillation loss is about.

Runs teachers and students over sentence pairs of DATA by teacher forcing, takes each loss's
gradient in the logits z and reports the mean of |dL/dz_v| by the rank of class v under the
ensemble's mean prediction, 1 the most probable, in bins that are even in the logarithm; and the
share of the gradient's absolute mass at each rank and beyond. Students are the checkpoints given,
at their present parameters, and `uniform`, whose logits are 0. Intervals are over sentences.
Writes JSON, for `seqdistill report --gradients`."""

_EXAMPLE = """\
seqdistill gradients data-bin --ensemble-paths 'teachers/*.pt' --student start=a.pt \\
    --student student.pt --max-sentences 300 --output gradients.json
seqdistill report --system student=runs/student --gradients gradients.json --output report.html"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "gradients", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument("data", metavar="DATA", help="folder that fairseq-preprocess made")
    parser.add_argument(
        "--ensemble-paths",
        required=True,
        metavar="A.pt:B.pt…",
        help="teachers' checkpoints with colons between them, or a quoted glob; at least two",
    )
    parser.add_argument(
        "--student",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a checkpoint at whose parameters gradients are taken; may be given several times",
    )
    add_language_options(parser)
    parser.add_argument("--subset", default="valid", metavar="NAME", help="of DATA")
    parser.add_argument(
        "--max-sentences", type=positive, metavar="N", help="drawn at random (default: all)"
    )
    losses = parser.add_argument_group("losses")
    losses.add_argument(
        "--losses",
        type=_kinds,
        default=",".join(KINDS),
        metavar="A,B,…",
        help="losses with commas between them",
    )
    losses.add_argument(
        "--concentration", choices=CONCENTRATIONS, default="mkl", help="the proxy's precision"
    )
    losses.add_argument(
        "--normalisation",
        choices=NORMALISATIONS,
        default="proxy",
        help="what the losses to the proxy are divided by",
    )
    losses.add_argument("--offset", type=int, choices=(0, 1), default=1, help="o in α = e^z + o")
    parser.add_argument(
        "--per-decade", type=positive, default=4, metavar="K", help="bins a factor of ten in rank"
    )
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_bootstrap_options(parser)
    add_output_options(parser, what="write here instead of to stdout")


def run(args: argparse.Namespace) -> int:
    """Read, compute and write; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    from seqdistill.assessment.bootstrap import check_bootstrap
    from seqdistill.assessment.gradient_files import profile_to_dict

    check_bootstrap(args.bootstrap, args.seed)
    with fairseq_at_hand():
        from fairseq_plugins.gradient_ranks import GradientReading

        reading = GradientReading(_options(args))
        show_progress("gradients", 0, len(reading.sentences), reading.read())
        profile = reading.profile(resamples=args.bootstrap, seed=args.seed)
    output = (
        nullcontext(sys.stdout)
        if args.output is None
        else atomic_write(args.output, overwrite=args.overwrite)
    )
    with output as handle:
        handle.write(json.dumps(profile_to_dict(profile), ensure_ascii=False, indent=1) + "\n")
    print(f"{profile.sentences} sentences, {profile.tokens} tokens", file=sys.stderr)
    return 0


def _options(args: argparse.Namespace) -> "GradientOptions":
    from fairseq_plugins.gradient_ranks import GradientOptions
    from seqdistill.kernels import DistillationLoss

    kinds = args.losses
    return GradientOptions(
        data=args.data,
        ensemble_paths=args.ensemble_paths,
        students=named_paths(args.student, "--student"),
        losses={
            kind: DistillationLoss(kind, args.concentration, args.normalisation, args.offset)
            for kind in kinds
        },
        subset=args.subset,
        source=args.source_lang,
        target=args.target_lang,
        per_decade=args.per_decade,
        max_sentences=args.max_sentences,
        seed=args.seed,
        use_cpu=args.cpu,
    )


def _kinds(text: str) -> list[str]:
    kinds = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in kinds if name not in KINDS]
    if unknown or not kinds:
        raise argparse.ArgumentTypeError(
            f"expected losses among {', '.join(KINDS)}, got {', '.join(unknown) or 'none'}"
        )
    return kinds
