"""The JSONL that stages exchange."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seqdistill.errors import InputError
from seqdistill.hypotheses import (
    SCHEMA,
    Against,
    Hypothesis,
    ModelInfo,
    Tempered,
    read_hypotheses,
    write_hypotheses,
)

FULL = Hypothesis(
    id=7,
    rank=1,
    text='schön, "ja" \u2028 α',
    tokens=[5, 9, 2],
    pieces=["▁schön", ",", "</s>"],
    log_prob=-1.5,
    token_log_probs=[-0.5, -0.75, -0.25],
    token_uncertainty={"epkl": [0.1, 0.2, 0.3]},
    uncertainty={"epkl": 0.2, "joint_total_uncertainty_pe": 0.5},
    model=ModelInfo("dirichlet", 1, "base", 1.0),
    source="lovely",
    reference="schön",
    score=-0.5,
    forced=True,
    token_confidence=[0.9, 0.8, 0.7],
    token_correct=[True, False, True],
    against=Against(ModelInfo("ensemble", 5, "pe"), [0.1, 0.0, 0.25], [True, True, False]),
    tempered=Tempered([0.5, 2.0], [[-0.5, -0.25, -1.0], [0.5, 0.25, 1.0]]),
)
BARE = replace(
    FULL,
    source=None,
    reference=None,
    score=None,
    token_confidence=None,
    token_correct=None,
    against=None,
    tempered=None,
)


def record(**changes: Any) -> dict[str, Any]:
    values = json.loads(FULL.to_json())
    for name, value in changes.items():
        if value is ...:
            del values[name]
        else:
            values[name] = value
    return values


def test_every_field_survives_a_file(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    assert write_hypotheses(path, iter([FULL, BARE])) == 2
    assert list(read_hypotheses(path)) == [FULL, BARE]
    assert len(path.read_bytes().split(b"\n")) == 3, "one line each, and a final newline"


def test_a_line_is_plain_json_with_its_schema_and_unescaped_text() -> None:
    line = FULL.to_json()
    assert "\n" not in line
    assert "schön" in line
    values = json.loads(line)
    assert values["schema"] == SCHEMA == "seqdistill.hypothesis/1"
    assert values["model"] == {
        "kind": "dirichlet",
        "members": 1,
        "predictive": "base",
        "offset": 1.0,
        "samples": None,
        "seed": None,
    }
    assert json.loads(BARE.to_json())["score"] is None, "absent is null"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_are_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(FULL, log_prob=value).to_json()


def test_optional_fields_may_be_absent_and_unknown_ones_are_ignored() -> None:
    values = record(score=..., source=..., reference=..., forced=..., later_field=3)
    optional = ("token_confidence", "token_correct", "against", "tempered")
    values = {k: v for k, v in values.items() if k not in optional}
    assert Hypothesis.from_dict(values) == replace(BARE, forced=False)


REQUIRED = (
    "id", "rank", "text", "tokens", "pieces", "log_prob", "token_log_probs",
    "token_uncertainty", "uncertainty", "model",
)  # fmt: skip


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(InputError, match=rf"the fields {name} are missing"):
        Hypothesis.from_dict(record(**{name: ...}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "seqdistill.hypothesis/2"}, r"expected schema .*/1', got .*/2'"),
        ({"schema": ...}, "expected schema .* got None"),
        ({"uncertainty": [0.1]}, "uncertainty must be an object"),
        ({"uncertainty": {"epkl": "0.2"}}, r"uncertainty\.epkl must be a number, got '0.2'"),
        ({"uncertainty": {"epkl": None}}, r"uncertainty\.epkl must be a number, got None"),
        ({"uncertainty": {"epkl": True}}, r"uncertainty\.epkl must be a number, got True"),
        ({"uncertainty": {"epkl": math.nan}}, r"uncertainty\.epkl must be finite, got nan"),
        ({"uncertainty": {"epkl": math.inf}}, r"uncertainty\.epkl must be finite, got inf"),
        ({"model": {"kind": "ensemble"}}, "model is malformed.*members"),
        ({"model": {"kind": "x", "members": 1, "predictive": "pe", "size": 3}}, "model is malf"),
        ({"model": "ensemble"}, "model is malformed"),
        # Every field of the wrong kind is named, not only the uncertainties.
        ({"id": "7"}, "id must be an integer, got '7'"),
        ({"rank": True}, "rank must be an integer, got True"),
        ({"text": None}, "text must be a string, got None"),
        ({"tokens": "5 9 2"}, "tokens must be a list, got '5 9 2'"),
        ({"token_log_probs": -1.0}, r"token_log_probs must be a list, got -1\.0"),
        ({"log_prob": None}, "log_prob must be a number, got None"),
        ({"log_prob": math.nan}, "log_prob must be finite, got nan"),
        ({"log_prob": False}, "log_prob must be a number, got False"),
        (
            {"token_uncertainty": []},
            r"token_uncertainty must be an object .*, got \[\]",
        ),
    ],
)
def test_a_malformed_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Hypothesis.from_dict(record(**changes))


@pytest.mark.parametrize("value", [[], "text", 3, None])
def test_a_line_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="expected a JSON object"):
        Hypothesis.from_dict(value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "empty line"),
        ("{not json", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"schema": "seqdistill.hypothesis/1"}', "are missing"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(f"{FULL.to_json()}\n{line}\n{FULL.to_json()}\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"h\.jsonl:2: .*{message}"):
        list(read_hypotheses(path))


def test_a_file_in_another_encoding_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_bytes(FULL.to_json().encode("utf-16"))
    with pytest.raises(InputError, match=r"h\.jsonl: not UTF-8"):
        list(read_hypotheses(path))


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.jsonl: no such file.*--uncertainty-output"):
        list(read_hypotheses(tmp_path / "absent.jsonl"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="the file is empty"):
        list(read_hypotheses(tmp_path / "empty.jsonl"))


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(FULL.to_json() + "\nnot json\n", encoding="utf-8")
    reader = read_hypotheses(path)
    assert next(reader) == FULL
    with pytest.raises(InputError):
        next(reader)


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"

    def broken() -> Iterator[Hypothesis]:
        yield FULL
        raise KeyError("decoder")

    with pytest.raises(KeyError):
        write_hypotheses(path, broken())
    assert not path.exists()
    write_hypotheses(path, [FULL])
    with pytest.raises(InputError, match="exists already"):
        write_hypotheses(path, [BARE], overwrite=False)
    assert list(read_hypotheses(path)) == [FULL]
