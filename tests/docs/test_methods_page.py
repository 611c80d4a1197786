"""The page on methods agrees with the bench: its options, and the tables of its last run."""

import re

import pytest
import yaml

from benchmarks.methods.__main__ import _parser
from benchmarks.methods.method import Method, read_bench
from benchmarks.methods.page import fill_page, markdown_tables
from benchmarks.methods.table import read_rows
from recipes.common.config import build
from tests.docs.pages import ROOT, blocks

PATH = ROOT / "docs" / "methods.md"
PAGE = PATH.read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def test_every_option_is_there() -> None:
    names = {name for action in _parser()._actions for name in action.option_strings}
    documented = set(re.findall(r"^\| `(--[\w-]+)", PAGE, re.M))
    assert documented == {name for name in names if name.startswith("--")} - {"--help"}


@pytest.mark.parametrize("bench", ["methods", "digits"])
def test_the_tables_are_those_of_the_last_run(bench: str) -> None:
    assert (ROOT / "benchmarks" / "methods" / f"{bench}.yaml").is_file()
    places = re.findall(rf"<!-- {bench}: (\w+) -->", PAGE)
    assert places == ["summary", "differences", "likeness", "costs"]
    csv = RESULTS / f"{bench}.csv"
    if csv.is_file():
        assert fill_page(PAGE, markdown_tables(read_rows(csv)), bench) == PAGE
    else:
        filled = fill_page(PAGE, dict.fromkeys(places, "| x |"), bench)
        assert filled.count("| x |") == len(places)
        assert not re.search(rf"<!-- {bench}: \w+ -->\n\n?\|", PAGE)


def test_the_example_is_an_entry() -> None:
    (example,) = [block for block in blocks(PATH) if block.language == "yaml"]
    for name, entry in yaml.safe_load(example.code)["methods"].items():
        assert name not in read_bench().methods
        build(Method, entry)


def test_the_head_of_the_file_explains_every_key() -> None:
    head = (ROOT / "benchmarks" / "methods" / "methods.yaml").read_text(encoding="utf-8")
    head = head.partition("\nrecipe:")[0]
    for key in Method.__dataclass_fields__:
        assert re.search(rf"^#   .*\b{key}\b", head, re.M), key
