"""The page on planning agrees with the code: options, assumptions, sweeps, measured errors."""

import csv
import json
import re
import shlex
from dataclasses import fields

import pytest

from benchmarks.scale import Model, planned
from seqdistill.cli.main import build_parser
from seqdistill.cli.plan import training_of
from seqdistill.planning import MACHINES, PRESETS, Assumptions, memory, traffic
from seqdistill.planning.tables import sweep_text
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
SWEEPS = re.findall(r"^<!-- sweep: (.*) -->\n((?:\|.*\n)+)", PAGE, re.M)


def rows(header: str) -> list[list[str]]:
    (table,) = re.findall(rf"^\| {header} \|.*\n\|[-:|]+\n((?:\|.*\n)+)", PAGE, re.M)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_every_option_is_there() -> None:
    parser = build_parser("plan")
    (verbs,) = [action for action in parser._actions if action.dest == "verb"]
    actions = verbs.choices["plan"]._actions  # type: ignore[index]
    names = {name for action in actions for name in action.option_strings if name[:2] == "--"}
    documented = {name for row in rows("option") for name in re.findall(r"--[\w-]+", row[0])}
    assert documented == names - {"--help"}


def test_presets_and_devices_are_there() -> None:
    for name in (*PRESETS, *MACHINES):
        assert f"`{name}`" in PAGE, name


def test_every_assumption_is_there() -> None:
    shown = {row[0].strip("`"): float(row[1]) for row in rows("assumption")}
    assert shown == {field.name: field.default for field in fields(Assumptions)}


@pytest.mark.parametrize(("options", "table"), SWEEPS, ids=[options for options, _ in SWEEPS])
def test_sweeps_are_what_the_command_prints(options: str, table: str) -> None:
    given = build_parser("plan").parse_args(["plan", *shlex.split(options)])
    assert table.strip() == sweep_text(training_of(given))
    assert f"seqdistill plan {options} --sweep" in PAGE.replace("\n", " ")


def test_there_are_two_sweeps() -> None:
    assert len(SWEEPS) == 2


def test_errors_are_those_that_were_measured() -> None:
    path = ROOT / "benchmarks" / "results" / "plan.csv"
    with path.open(encoding="utf-8") as handle:
        measured = list(csv.DictReader(handle))
    whats = list(dict.fromkeys(row["what"] for row in measured))
    shown = {row[0]: row[1:] for row in rows("predicted / measured")}
    for row in measured:
        cell = shown[row["case"]][whats.index(row["what"])]
        assert cell == f"{float(row['predicted_over_measured']):.2f}"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("scale", "ZeRO"),
        ("scale-wider", "ZeRO, float32"),
        ("scale-wider-bfloat16", "ZeRO, bfloat16"),
    ],
)
def test_the_runs_on_deepspeed_are_those_that_were_measured(name: str, header: str) -> None:
    path = ROOT / "benchmarks" / "results" / f"{name}.csv"
    with path.open(encoding="utf-8") as handle:
        measured = list(csv.DictReader(handle))
    assert rows(header) == [
        [
            row["stage"],
            row["ranks"],
            row["peak_mib"],
            row["predicted_mib"],
            f"{float(row['predicted_over_measured']):.2f}",
            row["sent_mib"],
            row["predicted_sent_mib"],
        ]
        for row in measured
    ]
    # What is predicted here and now, not only what was when the figures were made.
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    model = Model(**record["model"])
    for cell in record["cells"]:
        where = cell["stage"], cell["ranks"]
        training = planned(model, *where, record["framework_bytes"])
        assert memory(training).total == pytest.approx(max(cell["peak_bytes"]), rel=0.15), where
        moved = traffic(training)
        assert moved.gradients + moved.parameters == pytest.approx(cell["sent_bytes"], rel=0.01)
