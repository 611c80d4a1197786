"""``seqdistill report``: one HTML page on the quality and the uncertainty of systems."""

import argparse
import sys
from dataclasses import replace
from typing import Any

from seqdistill.assessment.gradient_files import read_gradients
from seqdistill.assessment.quality import METRICS
from seqdistill.cli.common import (
    add_bootstrap_options,
    add_output_options,
    add_verb,
    measures_option,
    named_paths,
    refuse_existing,
)
from seqdistill.cli.comparisons import (
    add_n_best_options,
    add_normalisation_options,
    aggregation_of,
    normalisation_of,
)
from seqdistill.errors import UsageError
from seqdistill.report.inputs import (
    ReportInput,
    SystemInput,
    read_folder,
    read_group_files,
    read_manifest,
    read_system,
)
from seqdistill.report.page import write_report

_DESCRIPTION = """\
Write one self-contained HTML page: text quality and out-of-domain detection with intervals, ROC
curves, distributions, rejection and retention curves, calibration, fidelity to an ensemble, over
all and by group, and every sentence with its tokens shaded, to sort by any measure. It opens
without a network; a page of many thousand sentences stays below 15 MB by leaving out token values
and then sentences, and says so.

The systems come from one of three places:
  --system NAME=FOLDER   a folder with in_domain.jsonl, a NAME.jsonl for each out-of-domain set
                         and, for likelihood and calibration, forced.jsonl (scored references),
                         for the control by a temperature forced_validation.jsonl (those of a
                         validation set); may be given several times
  --manifest FILE        a TOML or JSON file that names the files of each system:
                           title = "Tatoeba English-German"
                           training_text = "train.de"  # students by the frequency of words
                           groups = "speakers.tsv"     # students by given groups
                           [settings]                  # shown on the page
                           commit = "1a2b3c"
                           [[system]]
                           name = "ensemble"
                           in_domain = "ensemble/test.jsonl"
                           forced = "ensemble/forced.jsonl"
                           forced_validation = "ensemble/valid.jsonl"
                           out_of_domain = { news = "ensemble/news.jsonl" }
                           scores = { "sentences/s" = 3.1 }
  --in-domain FILE …     the files of a single system"""

_EXAMPLE = """\
seqdistill report --system ensemble=runs/ensemble --system student=runs/student \\
    --title "One student for five teachers" --output report.html
seqdistill report --manifest report.toml --output report.html
seqdistill report --in-domain test.jsonl --out-of-domain news=news.jsonl --output report.html"""


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(
        subparsers,
        "report",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument(
        "--system", action="append", default=[], metavar="NAME=FOLDER", help="a system's folder"
    )
    parser.add_argument("--manifest", metavar="FILE", help="names the files of all systems")
    parser.add_argument("--in-domain", metavar="FILE", help="the in-domain set of a single system")
    parser.add_argument(
        "--out-of-domain",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="an out-of-domain set of a single system; may be given several times",
    )
    parser.add_argument("--forced", metavar="FILE", help="scored references of a single system")
    parser.add_argument(
        "--forced-validation",
        metavar="FILE",
        help="scored references of a validation set, to fit a temperature on; both files scored "
        "with --temperatures",
    )
    parser.add_argument("--name", metavar="NAME", help="name of a single system (default: system)")
    parser.add_argument(
        "--gradients", metavar="FILE", help="of `seqdistill gradients`: by the rank of a class"
    )
    parser.add_argument(
        "--training-text",
        metavar="TEXT",
        help="compare students with their ensemble by the frequency of words in this text, too "
        "(default: the manifest's)",
    )
    parser.add_argument(
        "--groups",
        metavar="FILE",
        help="compare them by these groups of sentences, as of `seqdistill groups --groups` "
        "(default: the manifest's)",
    )
    parser.add_argument("--title", help="of the page (default: the manifest's)")
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting to show, such as commit=1a2b3c; may be given several times",
    )
    parser.add_argument(
        "--measures",
        type=measures_option,
        metavar="A,B,…",
        help="measures to show, in this order (default: all that a system has)",
    )
    parser.add_argument(
        "--quality",
        choices=[*METRICS, "wer"],
        default="chrf",
        help="sentence score of rejection curves; with wer, for transcripts, the whole report has "
        "word and character errors instead of BLEU and chrF",
    )
    parser.add_argument(
        "--examples", type=int, default=5, metavar="N", help="sentences shown of each set"
    )
    add_normalisation_options(parser)
    add_n_best_options(parser)
    add_bootstrap_options(parser)
    add_output_options(parser, what="the page", required=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, compute and write; returns the exit status."""
    refuse_existing(args.output, overwrite=args.overwrite)
    systems, title, settings = _read(args)
    named = read_group_files(args.manifest) if args.manifest else {}
    report = ReportInput(
        systems=systems,
        settings={**settings, **_settings(args.setting)},
        measures=args.measures,
        quality_metric=args.quality,
        normalisation=normalisation_of(args, quality=args.quality),
        resamples=args.bootstrap,
        seed=args.seed,
        examples=args.examples,
        gradients=None if args.gradients is None else read_gradients(args.gradients),
        training_text=args.training_text or named.get("training_text"),
        groups=args.groups or named.get("groups"),
    )
    title = args.title or title
    write_report(
        report if title is None else replace(report, title=title),
        args.output,
        overwrite=args.overwrite,
    )
    print(f"wrote {args.output}", file=sys.stderr)
    return 0


def _read(args: argparse.Namespace) -> tuple[list[SystemInput], str | None, dict[str, str]]:
    single = [args.in_domain, args.out_of_domain, args.forced, args.forced_validation, args.name]
    aggregation = aggregation_of(args)
    given = [bool(args.system), bool(args.manifest), any(single)]
    if sum(given) != 1:
        raise UsageError("expected one of --system, --manifest and --in-domain")
    if args.manifest:
        return read_manifest(args.manifest, aggregation)
    if args.system:
        if any("=" not in value for value in args.system):
            raise UsageError("--system: expected NAME=FOLDER")
        folders = named_paths(args.system, "--system")
        return [read_folder(name, path, aggregation) for name, path in folders.items()], None, {}
    if not args.in_domain:
        raise UsageError("--out-of-domain, --forced… and --name belong to an --in-domain FILE")
    sets = named_paths(args.out_of_domain, "--out-of-domain")
    system = read_system(
        args.name or "system",
        args.in_domain,
        sets,
        forced=args.forced,
        forced_validation=args.forced_validation,
        aggregation=aggregation,
    )
    return [system], None, {}


def _settings(values: list[str]) -> dict[str, str]:
    settings = {}
    for value in values:
        name, separator, text = value.partition("=")
        if not separator or not name:
            raise UsageError(f"--setting: expected NAME=VALUE, got {value!r}")
        settings[name] = text
    return settings
