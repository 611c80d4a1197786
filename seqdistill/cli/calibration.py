"""``seqdistill calibration``: whether the probabilities of systems are to be believed."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from seqdistill.assessment.bootstrap import Comparison
from seqdistill.assessment.calibration import BINNINGS, CalibrationResult, calibration
from seqdistill.assessment.diagrams import check_format, reliability_diagram
from seqdistill.assessment.forced_sets import ForcedSet, read_forced, require_same_tokens
from seqdistill.assessment.hypothesis_files import describe_model
from seqdistill.assessment.numbers import Numbers, compare_numbers
from seqdistill.assessment.temperature import (
    FittedTemperature,
    at_temperature,
    fit_temperature,
    require_same_model,
)
from seqdistill.assessment.token_calibration import BIASED, assess_calibration
from seqdistill.cli.common import add_verb, named_paths, refuse_existing
from seqdistill.cli.comparisons import (
    add_result_options,
    comparison_record,
    format_comparison,
    print_signatures,
    write_json,
)
from seqdistill.errors import InputError, UsageError
from seqdistill.report.tables import Style, format_estimate, format_table

SCHEMA = "seqdistill.calibration/1"

_DESCRIPTION = """\
Measure likelihood and calibration of systems along scored references.

Reads force-decoded references from JSONL (--score-reference) and prints a table: rows are systems;
negative log-likelihood of a token (nats), share of right most probable pieces and their mean
probability (%), expected calibration error with bins of equal mass and of equal width (%), and the
NLL minus the mean entropy (nats), which is above 0 where the best temperature is above 1.
Intervals are 95 % bootstraps over sentences. With --baseline, differences to one of the systems
follow, with paired-bootstrap p-values.

With --validation, a temperature is fitted on scored references of a validation set, as the control
of Guo and others (2017): the system follows once more at that temperature, with the differences
that it makes. Both files must have been scored with --temperatures. Systems at their temperatures
are compared with the baseline at its own."""

_EXAMPLE = """\
seqdistill calibration student=student/forced.jsonl ensemble=ensemble/forced.jsonl \\
    --baseline ensemble --diagram reliability.svg
seqdistill calibration student=student/forced.jsonl ensemble=ensemble/forced.jsonl \\
    --validation student=student/valid.jsonl --validation ensemble=ensemble/valid.jsonl"""

#: Number → column, scale and digits.
_COLUMNS = {
    "nll": ("NLL", 1.0, 3),
    "accuracy": ("accuracy", 100.0, 1),
    "confidence": ("confidence", 100.0, 1),
    "ece_equal_mass": ("ECE (mass)", 100.0, 2),
    "ece_equal_width": ("ECE (width)", 100.0, 2),
    "entropy_gap": ("NLL − H", 1.0, 3),
}
_Comparisons = Mapping[str, Comparison | None]


@dataclass(frozen=True)
class _Assessed:
    """A system at a temperature; None is 1, as it was scored."""

    name: str
    numbers: Numbers
    reliability: CalibrationResult | None
    fitted: FittedTemperature | None = None

    @property
    def label(self) -> str:
        """What tables and diagrams call it."""
        return self.name if self.fitted is None else f"{self.name}, T = {self.fitted.value:.3f}"


def add_parser(subparsers: Any) -> None:
    """Add the verb to the main parser."""
    parser = add_verb(subparsers, "calibration", description=_DESCRIPTION, example=_EXAMPLE)
    parser.add_argument(
        "forced", nargs="+", metavar="[NAME=]FILE", help="scored references of a system"
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="the system that the others are compared with"
    )
    parser.add_argument(
        "--validation",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="scored references of a validation set, on which the temperature of a system is "
        "fitted; may be given once for each system",
    )
    parser.add_argument("--bins", type=int, default=15, metavar="N", help="of calibration errors")
    parser.add_argument(
        "--diagram", metavar="FILE", help="draw a reliability diagram, as .svg or .png"
    )
    parser.add_argument(
        "--binning", choices=BINNINGS, default="equal_mass", help="of the reliability diagram"
    )
    add_result_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute and print; returns the exit status."""
    for path in (args.output, args.diagram):
        refuse_existing(path, overwrite=args.overwrite)
    if args.diagram is not None:
        check_format(args.diagram)
    paths = named_paths(args.forced, "FILE")
    if args.baseline is not None and args.baseline not in paths:
        raise UsageError(f"--baseline: expected one of {', '.join(paths)}, got {args.baseline!r}")
    validation = _validation_paths(args.validation, list(paths))
    systems = {name: read_forced(path) for name, path in paths.items()}
    if args.baseline is not None:
        for one in systems.values():
            require_same_tokens(one, systems[args.baseline])
    fitted = {
        name: fit_temperature(read_forced(path), resamples=args.bootstrap, seed=args.seed)
        for name, path in validation.items()
    }
    plain = {name: _assess(name, one, None, args) for name, one in systems.items()}
    tempered = {name: _assess(name, systems[name], fitted[name], args) for name in fitted}
    gains = {name: _compare(one, plain[name]) for name, one in tempered.items()}
    pairs = _pairs(plain, plain.get(args.baseline))
    # On equal terms: each at its own temperature.
    pairs_tempered = _pairs(tempered, tempered.get(args.baseline))
    if args.diagram is not None:
        _draw([*plain.values(), *tempered.values()], args, next(iter(paths.values())))
    record = {
        "schema": SCHEMA,
        "files": paths,
        "systems": {
            name: {
                "model": asdict(systems[name].source.model),
                **_numbers_record(one),
                "tempered": _tempered_record(tempered.get(name), gains.get(name)),
            }
            for name, one in plain.items()
        },
        "baseline": args.baseline,
        "comparisons": {name: _comparisons_record(row) for name, row in pairs.items()},
        "comparisons_tempered": {
            name: _comparisons_record(row) for name, row in pairs_tempered.items()
        },
    }
    if not write_json(record, args):
        return 0
    for name, one in systems.items():
        tokens = f"{len(one.log_probs)} tokens of {one.n} sentences"
        print(f"{name}: {describe_model(one.source.model)}, {tokens}", file=sys.stderr)
        if name in fitted:
            print(f"  {_describe(fitted[name])}", file=sys.stderr)
    style: Style = "markdown" if args.markdown else "plain"
    cells = {
        row.label: _number_cells(row.numbers)
        for name in plain
        for row in (plain[name], tempered.get(name))
        if row is not None
    }
    print(file=sys.stderr)
    print(_table("system", cells, style))
    _print_differences("differences that temperatures make", gains, tempered, style)
    _print_differences(f"differences to {args.baseline}", pairs, plain, style)
    _print_differences(
        f"differences to {args.baseline}, each at its temperature", pairs_tempered, tempered, style
    )
    # Those of the others differ in what was decoded only, which stands above.
    first = next(iter(plain.values()))
    shown = [first.numbers.signatures[number] for number in _COLUMNS]
    print_signatures([*shown, *(one.signature for one in fitted.values())])
    return 0


def _validation_paths(values: list[str], names: list[str]) -> dict[str, str]:
    """Read --validation; a single system's needs no name.

    Raises:
        UsageError: a name is not that of a system.
    """
    if len(names) == 1 and len(values) == 1 and "=" not in values[0]:
        return {names[0]: values[0]}
    paths = named_paths(values, "--validation")
    for name in paths:
        if name not in names:
            raise UsageError(
                f"--validation: expected NAME=FILE of one of {', '.join(names)}, got {name!r}"
            )
    return paths


def _assess(
    name: str, forced: ForcedSet, fitted: FittedTemperature | None, args: argparse.Namespace
) -> _Assessed:
    numbers = assess_calibration(
        forced, bins=args.bins, resamples=args.bootstrap, seed=args.seed, temperature=fitted
    )
    if fitted is not None:
        require_same_model(fitted, forced)
        forced = at_temperature(forced, fitted.value)
    reliability = None
    if forced.confidence is not None and forced.correct is not None:
        reliability = calibration(
            forced.confidence, forced.correct, binning=args.binning, bins=args.bins
        )
    return _Assessed(name, numbers, reliability, fitted)


def _compare(one: _Assessed, other: _Assessed) -> _Comparisons:
    return compare_numbers(one.numbers, other.numbers, pivotal=BIASED)


def _pairs(found: Mapping[str, _Assessed], baseline: _Assessed | None) -> dict[str, _Comparisons]:
    """Compare every other system with the baseline, if there is one."""
    if baseline is None:
        return {}
    return {name: _compare(one, baseline) for name, one in found.items() if one is not baseline}


def _draw(found: list[_Assessed], args: argparse.Namespace, path: str) -> None:
    diagrams = {one.label: one.reliability for one in found if one.reliability is not None}
    if not diagrams:
        raise InputError(
            f"{path}: no token_confidence, so there is no reliability diagram; score the "
            "references with their confidence"
        )
    reliability_diagram(diagrams, args.diagram, overwrite=args.overwrite)


def _numbers_record(one: _Assessed) -> dict[str, Any]:
    """Numbers and the points of the reliability diagram, None where no confidence was recorded."""
    points = one.reliability and {
        "confidence": one.reliability.confidence.tolist(),
        "accuracy": one.reliability.accuracy.tolist(),
        "count": one.reliability.count.tolist(),
        "signature": one.reliability.signature,
    }
    return {"numbers": one.numbers.to_dict(), "reliability": points}


def _tempered_record(one: _Assessed | None, gains: _Comparisons | None) -> dict[str, Any] | None:
    if one is None or one.fitted is None or gains is None:
        return None
    return {
        "temperature": {**asdict(one.fitted), "signature": one.fitted.signature},
        **_numbers_record(one),
        "differences": _comparisons_record(gains),
    }


def _comparisons_record(row: _Comparisons) -> dict[str, Any]:
    return {number: comparison_record(comparison) for number, comparison in row.items()}


def _describe(fitted: FittedTemperature) -> str:
    """``temperature 1.21 [1.18, 1.24], fitted on … (NLL there 2.105 → 2.071)``."""
    value = format_estimate(fitted.temperature, scale=1.0, digits=3)
    where = f"{fitted.path}, {fitted.n_tokens} tokens of {fitted.n_sentences} sentences"
    gain = f"NLL there {fitted.nll_before:.3f} → {fitted.nll_after:.3f}"
    return f"temperature {value}, fitted on {where} ({gain})"


def _number_cells(numbers: Numbers) -> list[str]:
    cells = []
    for number, (_, scale, digits) in _COLUMNS.items():
        value = numbers.numbers[number]
        cells.append("–" if value is None else format_estimate(value, scale=scale, digits=digits))
    return cells


def _print_differences(
    title: str,
    pairs: Mapping[str, _Comparisons],
    found: Mapping[str, _Assessed],
    style: Style,
) -> None:
    if not pairs:
        return
    print(f"\n{title}\n", file=sys.stderr)
    print()
    rows = {
        found[name].label: [
            format_comparison(row[number], scale=scale, digits=digits)
            for number, (_, scale, digits) in _COLUMNS.items()
        ]
        for name, row in pairs.items()
    }
    print(_table("difference", rows, style))


def _table(first: str, rows: Mapping[str, list[str]], style: Style) -> str:
    labels = [label for label, _, _ in _COLUMNS.values()]
    return format_table([first, *labels], [[name, *cells] for name, cells in rows.items()], style)
