"""``seqdistill VERB``: finds the verb, runs it and turns errors into exit codes.

A verb is a module with ``add_parser(subparsers)`` and ``run(args)``. Only the module of the verb
that was asked for is imported: help stays instant, and what one verb lacks hurts no other.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import seqdistill
from seqdistill.errors import InputError, UsageError

#: Verb → module and the line that ``seqdistill --help`` shows.
VERBS: dict[str, tuple[str, str]] = {
    "prepare-speech": (
        "seqdistill.cli.prepare_speech",
        "make filterbanks, manifests and pieces of speech, to train and decode with",
    ),
    "translate": (
        "seqdistill.cli.translate",
        "translate text with a checkpoint or an ensemble and report its uncertainty",
    ),
    "transcribe": (
        "seqdistill.cli.transcribe",
        "transcribe speech with a checkpoint or an ensemble and report its uncertainty",
    ),
    "score": (
        "seqdistill.cli.score",
        "report the uncertainty about translations that are given",
    ),
    "fit-features": (
        "seqdistill.cli.fit_features",
        "fit densities to a model's features on in-domain text, for distances from it",
    ),
    "calibrate": (
        "seqdistill.cli.calibrate",
        "fit what a trained model's probabilities are to be believed; its outputs stay",
    ),
    "members": (
        "seqdistill.cli.members",
        "make several members of one trained model: by dropout masks, or by layers",
    ),
    "measures": (
        "seqdistill.cli.measures",
        "list the measures of uncertainty with their formulas",
    ),
    "disagreement": (
        "seqdistill.cli.disagreement",
        "add how much the members' own translations differ to the measures of an ensemble",
    ),
    "ood": (
        "seqdistill.cli.ood",
        "measure how well uncertainty detects out-of-domain sentences",
    ),
    "errors": (
        "seqdistill.cli.errors",
        "measure how well uncertainty finds the mistakes of a system",
    ),
    "wer": (
        "seqdistill.cli.wer",
        "count the word errors of transcripts and compare systems by them",
    ),
    "calibration": (
        "seqdistill.cli.calibration",
        "measure whether the probabilities of systems are to be believed",
    ),
    "fidelity": (
        "seqdistill.cli.fidelity",
        "measure how like its ensemble a student is",
    ),
    "groups": (
        "seqdistill.cli.groups",
        "measure where a student errs more than its teachers, by group",
    ),
    "gradients": (
        "seqdistill.cli.gradients",
        "measure which classes, by rank, the gradients of the losses are about",
    ),
    "report": (
        "seqdistill.cli.report",
        "write one HTML page on the quality and the uncertainty of systems",
    ),
    "generate-sources": (
        "seqdistill.cli.generate_sources",
        "draw new source sentences from a language model, for an ensemble to translate",
    ),
    "cache-targets": (
        "seqdistill.cli.cache_targets",
        "store an ensemble's targets of a training set, to train students without it",
    ),
    "cache-states": (
        "seqdistill.cli.cache_states",
        "store teachers' hidden states of a training set, compressed, for students to learn from",
    ),
    "cache-info": (
        "seqdistill.cli.cache_info",
        "show what is in a target store",
    ),
    "cache-verify": (
        "seqdistill.cli.cache_verify",
        "check that a target store is what was written",
    ),
    "plan": (
        "seqdistill.cli.plan",
        "predict the memory and the time of a training before it is started",
    ),
    "consolidate": (
        "seqdistill.cli.consolidate",
        "make one ordinary checkpoint of the shards of a training with --deepspeed",
    ),
    "doctor": (
        "seqdistill.cli.doctor",
        "show what is installed here and which loss backend is used, and why",
    ),
    "fairseq-user-dir": (
        "seqdistill.cli.fairseq_user_dir",
        "print the folder for fairseq's --user-dir",
    ),
}

_EPILOG = """\
exit status: 0 done, 1 failed, 2 wrong usage

example:
  seqdistill ood --in-domain test.jsonl --out-of-domain news=news.jsonl
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process when None.

    Returns:
        0 when done, 1 when something given was unusable, 2 for wrong usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments and not arguments[0].startswith("-") else None
    try:
        parser = build_parser(verb)
        args = parser.parse_args(arguments)
        if args.verb is None:
            parser.print_help(sys.stderr)
            return 2
        status = args.run(args)
        sys.stdout.flush()
    except UsageError as error:
        return _fail(verb, error, 2)
    except InputError as error:
        return _fail(verb, error, 1)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader (head, say) has gone. Python would complain once more when it flushes
            # stdout at exit, so stdout is pointed elsewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return _fail(verb, error, 1)
    except KeyboardInterrupt:
        return _fail(verb, "interrupted", 130)
    except SystemExit as stop:  # argparse: --help and --version end with 0, wrong usage with 2
        return stop.code if isinstance(stop.code, int) else 1
    return int(status or 0)


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """Return the parser; only ``verb`` has its options, the others have their line of help.

    Raises:
        InputError: the verb's module cannot be imported.
    """
    parser = argparse.ArgumentParser(
        prog="seqdistill",
        description="Distil ensembles and put the uncertainty of the result to the test.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"seqdistill {seqdistill.__version__}"
    )
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, (module_name, line) in VERBS.items():
        if name != verb:
            subparsers.add_parser(name, help=line)
            continue
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise InputError(f"this verb is not usable here: {error}") from error
        module.add_parser(subparsers)
        # The module's run, unless its add_parser chose another.
        chosen = subparsers.choices[name]
        if chosen.get_default("run") is None:
            chosen.set_defaults(run=module.run)
    return parser


def _fail(verb: str | None, error: object, status: int) -> int:
    program = f"seqdistill {verb}" if verb in VERBS else "seqdistill"
    print(f"{program}: error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
