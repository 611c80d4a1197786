"""The page on speech agrees with the code: options, kinds of problems, policies, files."""

import re

import pytest

from seqdistill.cli.main import build_parser
from seqdistill.speech.configuration import POLICIES
from seqdistill.speech.problems import KINDS
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "speech.md").read_text(encoding="utf-8")


def rows(header: str) -> list[list[str]]:
    """The cells of the table with this first cell."""
    (table,) = re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.M)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def options_of(verb: str) -> set[str]:
    parser = build_parser(verb)
    (verbs,) = [action for action in parser._actions if action.dest == "verb"]
    actions = verbs.choices[verb]._actions  # type: ignore[index]
    names = {name for action in actions for name in action.option_strings if name[:2] == "--"}
    return names - {"--help"}


@pytest.mark.parametrize(
    ("verb", "header"), [("prepare-speech", "option"), ("transcribe", "`transcribe`")]
)
def test_every_option_is_there(verb: str, header: str) -> None:
    documented = {name for row in rows(header) for name in re.findall(r"--[\w-]+", row[0])}
    assert documented == options_of(verb)


def test_the_default_of_max_problems() -> None:
    shown = [row for row in rows("option") if row[0] == "`--max-problems`"]
    assert shown[0][1] == "1%"


def test_every_kind_of_problem_is_there() -> None:
    assert {row[0].strip("` "): row[1] for row in rows("kind")} == KINDS


def test_the_policies_are_those() -> None:
    for name, freq, time in rows("policy"):
        policy = POLICIES[name.split("`")[1]]
        assert freq == f"{policy['freq_mask_N']}, below {policy['freq_mask_F']} bands"
        share = "" if policy["time_mask_p"] == 1 else " and a fifth of the utterance"
        assert time == f"{policy['time_mask_N']}, below {policy['time_mask_T']} frames{share}"
    assert len(rows("policy")) == len(POLICIES)
