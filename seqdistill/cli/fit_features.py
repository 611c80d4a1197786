"""``seqdistill fit-features``: what in-domain text looks like to a model, for distances from it."""

import argparse
import os
import sys
from dataclasses import asdict
from typing import Any

from seqdistill.cli.common import (
    add_output_options,
    add_verb,
    positive,
    refuse_existing,
    show_progress,
)
from seqdistill.cli.with_fairseq import add_language_options, fairseq_at_hand

_DESCRIPTION = """\
Fit Gaussians to the features of fairseq models on in-domain text, for Mahalanobis distances.

Runs each checkpoint over sentence pairs of DATA by teacher forcing and stores, of the encoder's
outputs and of the decoder's features before the output layer, each averaged over a sentence, the
mean and the full covariance. With --background, text of any kind, there are relative distances,
too. Decoding with --feature-density FILE then adds the distances to every hypothesis. The file is
known by the models' weights: with other models it is refused."""

_EXAMPLE = """\
seqdistill fit-features data-bin --path student.pt --gen-subset train --max-sentences 20000 \\
    --output student.density
seqdistill fit-features data-bin --path a.pt:b.pt:c.pt --background general-bin \\
    --output ensemble.density
seqdistill translate --path student.pt --data data-bin -s en -t de \\
    --sentencepiece-model spm.model --feature-density student.density < news.en > news.jsonl"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "fit-features", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument("data", metavar="DATA", help="in-domain, as fairseq-preprocess made it")
    parser.add_argument(
        "--path",
        required=True,
        metavar="A.pt[:B.pt…]",
        help="checkpoints with colons between them; each gets densities of its own",
    )
    add_language_options(parser)
    parser.add_argument(
        "--config-yaml",
        metavar="NAME",
        help="speech: configuration in DATA, a folder of `seqdistill prepare-speech` (without it, "
        "DATA is text)",
    )
    parser.add_argument("--gen-subset", default="train", metavar="NAME", help="of DATA")
    parser.add_argument(
        "--background",
        metavar="DATA",
        help="folder of text of any kind with the same dictionaries, for relative distances",
    )
    parser.add_argument(
        "--background-subset", default="train", metavar="NAME", help="of --background"
    )
    parser.add_argument(
        "--max-sentences",
        type=positive,
        metavar="N",
        help="of each set, drawn at random (default: all)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --max-sentences")
    parser.add_argument(
        "--shrinkage",
        type=float,
        metavar="RHO",
        help="share of the covariance that is made equal in all directions, 0 to 1 (default: the "
        "oracle approximating shrinkage of Chen et al. 2010)",
    )
    parser.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help="tokens, or frames of speech, of a batch with padding (default: 4096, or 20000)",
    )
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_output_options(parser, what="the densities, as safetensors", required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit and write; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    from seqdistill.uncertainty.density_files import write_densities

    with fairseq_at_hand():
        from fairseq_plugins.feature_fitting import FitOptions, Fitting

        options = FitOptions(
            paths=[path for path in args.path.split(os.pathsep) if path],
            data=args.data,
            subset=args.gen_subset,
            background=args.background,
            background_subset=args.background_subset,
            source=args.source_lang,
            target=args.target_lang,
            max_sentences=args.max_sentences,
            seed=args.seed,
            shrinkage=args.shrinkage,
            config_yaml=args.config_yaml,
            max_tokens=args.max_tokens or (4096 if args.config_yaml is None else 20_000),
            use_cpu=args.cpu,
        )
        fitting = Fitting(options)
        show_progress("features", 0, fitting.sentences, fitting.read())
        densities = fitting.densities()
    write_densities(args.output, densities, asdict(options), overwrite=args.overwrite)
    for model in densities:
        for kind in ("in_domain", "background"):
            for side, density in getattr(model, kind).items():
                print(
                    f"{model.name}: {kind.replace('_', '-')} {side}, {density.count} sentences, "
                    f"{len(density.mean)} features, shrinkage {density.shrinkage:.3g}",
                    file=sys.stderr,
                )
    return 0
