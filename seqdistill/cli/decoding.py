"""What the verbs that run models share: options of the models and of their measures."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from seqdistill.cli.common import positive
from seqdistill.cli.with_fairseq import fairseq_at_hand
from seqdistill.errors import InputError, UsageError
from seqdistill.hypotheses import Hypothesis
from seqdistill.student import PREDICTIVES
from seqdistill.uncertainty.measures import DEFAULT, MEASURES, select_measures
from seqdistill.uncertainty.options import COMBINATIONS, UncertaintyOptions

if TYPE_CHECKING:
    from fairseq_plugins.generation.translator import Translator


def add_model_options(parser: argparse.ArgumentParser, *, sentencepiece_help: str) -> Any:
    """Add the options that say which models run; returns their group."""
    models = _add_models(
        parser, "folder with dict.SOURCE.txt and dict.TARGET.txt, as fairseq-preprocess makes it"
    )
    models.add_argument(
        "-s", "--source-lang", required=True, metavar="SOURCE", help="source language"
    )
    models.add_argument(
        "-t", "--target-lang", required=True, metavar="TARGET", help="target language"
    )
    models.add_argument("--sentencepiece-model", metavar="FILE", help=sentencepiece_help)
    return models


def add_speech_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which models of speech run."""
    models = _add_models(parser, "folder of `seqdistill prepare-speech` that they were trained on")
    models.add_argument(
        "--config-yaml", default="config.yaml", metavar="NAME", help="configuration in that folder"
    )


def add_search_options(parser: argparse.ArgumentParser, *, unit: str, many: int) -> Any:
    """Add the options of a search; returns their group.

    Args:
        parser: of the verb.
        unit: what is decoded, ``lines``.
        many: of them are decoded together by default.
    """
    search = parser.add_argument_group("search")
    search.add_argument("--beam", type=positive, default=5, metavar="N", help="size of the beam")
    search.add_argument(
        "--nbest",
        type=positive,
        default=1,
        metavar="N",
        help=f"hypotheses written of each of the {unit}, best first; at most the beam",
    )
    search.add_argument(
        "--batch-size", type=positive, default=many, metavar="N", help=f"{unit} decoded together"
    )
    return search


def check_n_best(args: argparse.Namespace) -> None:
    """Raise a :class:`UsageError` if more hypotheses are wanted than the beam has."""
    if args.nbest > args.beam:
        raise UsageError(f"--nbest {args.nbest}: a beam of {args.beam} finds no more than that")


def _add_models(parser: argparse.ArgumentParser, data_help: str) -> Any:
    models = parser.add_argument_group("models")
    models.add_argument(
        "--path",
        required=True,
        metavar="A.pt[:B.pt…]",
        help="checkpoints with colons between them: an ensemble, one model, or a Dirichlet student",
    )
    models.add_argument("--data", required=True, metavar="DIR", help=data_help)
    models.add_argument(
        "--predictive",
        choices=PREDICTIVES,
        help="what a Dirichlet student decodes with (default: what its checkpoint says)",
    )
    models.add_argument("--cpu", action="store_true", help="stay on the CPU")
    return models


def add_uncertainty_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured, and how members are combined."""
    group = parser.add_argument_group("uncertainty")
    group.add_argument(
        "--uncertainty-measures",
        metavar="NAMES",
        help="measures to compute, with commas between them; all; default (see `seqdistill "
        "measures`)",
    )
    group.add_argument(
        "--ensemble-combination",
        choices=COMBINATIONS,
        default="pe",
        help="how members make one model: product of expectations or expectation of products",
    )
    group.add_argument(
        "--dirichlet-samples",
        type=int,
        default=0,
        metavar="N",
        help="draw N members from a Dirichlet student at every step, for its joint EP measures",
    )
    group.add_argument(
        "--dirichlet-seed", type=int, default=0, metavar="N", help="of --dirichlet-samples"
    )
    group.add_argument(
        "--feature-density",
        metavar="FILE",
        help="of `seqdistill fit-features`: add the Mahalanobis distances of features",
    )
    group.add_argument(
        "--calibration",
        metavar="FILE",
        help="of `seqdistill calibrate`: the same hypotheses, with calibrated probabilities and "
        "uncertainties",
    )


def uncertainty_options(args: argparse.Namespace, *, also: str | None = None) -> UncertaintyOptions:
    """Read the options of :func:`add_uncertainty_options`.

    Args:
        args: parsed.
        also: a measure to compute beside those that were chosen; one that needs
            --feature-density is there with that.

    Raises:
        UsageError: an unknown measure, one that was not asked for, or numbers out of range.
    """
    if also is not None and MEASURES[also].added_by == "--feature-density":
        if args.feature_density is None:
            raise UsageError(f"{also} needs --feature-density, a file of `seqdistill fit-features`")
        also = None
    try:
        measures = select_measures(args.uncertainty_measures)
        if also is not None and (measures is None or also not in measures):
            measures = (*(measures or (DEFAULT,)), also)
        return UncertaintyOptions(
            measures, args.ensemble_combination, args.dirichlet_samples, args.dirichlet_seed
        )
    except InputError as error:
        raise UsageError(str(error)) from error


def load_translator(
    args: argparse.Namespace, options: UncertaintyOptions, **settings: Any
) -> "Translator":
    """Load the models of :func:`add_model_options`.

    Args:
        args: parsed.
        options: what is measured.
        **settings: more of the ``Translator``'s.

    Raises:
        InputError: fairseq is missing, or what ``Translator`` raises.
    """
    with fairseq_at_hand():
        from fairseq_plugins.generation.translator import Translator

        return Translator(
            [path for path in args.path.split(os.pathsep) if path],
            args.data,
            args.source_lang,
            args.target_lang,
            sentencepiece_model=args.sentencepiece_model,
            predictive=args.predictive,
            use_cpu=args.cpu,
            options=options,
            feature_density=args.feature_density,
            calibration=args.calibration,
            **settings,
        )


def with_progress(hypotheses: Iterator[Hypothesis]) -> Iterable[Hypothesis]:
    """Show how many hypotheses have passed, where stderr is a terminal."""
    from tqdm import tqdm

    bar: Iterable[Hypothesis] = tqdm(hypotheses, unit=" sentences", file=sys.stderr, disable=None)
    return bar
