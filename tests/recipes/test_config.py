"""YAML to dataclasses: what fits is converted, what does not is named."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recipes.common.config import build, merge, parse_setting, read_yaml
from seqdistill.errors import InputError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    name: str | None = None


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = field(default_factory=Inner)
    each: dict[str, Inner] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)


def test_nested_values_become_dataclasses() -> None:
    made = build(
        Outer,
        {"count": 2, "inner": {"rate": 1}, "each": {"a": None, "b": {"name": "x"}}, "sizes": [1]},
    )
    assert made == Outer(2, Inner(1.0), {"a": Inner(), "b": Inner(name="x")}, [1])
    assert isinstance(made.inner.rate, float)


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert build(Inner, {"rate": "5e-3"}) == Inner(5e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 1, "cuont": 2}, r"unknown key cuont; did you mean count\?"),
        ({"count": 1, "inner": {"rat": 2}}, r"unknown key inner.rat; did you mean rate\?"),
        ({"count": 1, "each": {"a": {"zzz": 2}}}, r"unknown key each.a.zzz \(known: rate, name\)"),
        ({}, "the key count is missing"),
        ({"count": "two"}, "count must be of type int, got 'two'"),
        ({"count": True}, "count must be of type int, got True"),
        ({"count": 1, "inner": {"rate": "fast"}}, "inner.rate must be of type float"),
        ({"count": 1, "sizes": 3}, "sizes must be a list"),
        ({"count": 1, "sizes": [1, "b"]}, r"sizes\[1\] must be of type int"),
        ({"count": 1, "each": []}, "each must be a mapping"),
        ([], "must be a mapping"),
    ],
)
def test_what_does_not_fit_is_named(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(Outer, values)


def test_settings_are_paths_and_yaml_values() -> None:
    assert parse_setting("a.b-c=[1, x]") == {"a": {"b-c": [1, "x"]}}
    assert parse_setting("a=b=c") == {"a": "b=c"}
    for text in ("a", "=1", "a..b=1", "a=[1"):
        with pytest.raises(InputError, match="--set"):
            parse_setting(text)


def test_merging_leaves_its_inputs_alone() -> None:
    base = {"a": {"b": 1, "c": 2}}
    assert merge(base, {"a": {"b": None, "d": 3}}) == {"a": {"c": 2, "d": 3}}
    assert base == {"a": {"b": 1, "c": 2}}


def test_none_for_a_key_that_is_not_there_stays_an_error() -> None:
    with pytest.raises(InputError, match="unknown key cuont"):
        build(Outer, merge({"count": 1}, {"cuont": None}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "the key 'a' is there twice"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "must be a mapping"),
        ("", "must be a mapping"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recipe.yaml: no such file"):
        read_yaml(tmp_path / "recipe.yaml")
