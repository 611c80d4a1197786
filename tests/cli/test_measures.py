"""``seqdistill measures``: the table of measures, to read and as data."""

import json
from dataclasses import fields

import pytest

from seqdistill.cli.main import main
from seqdistill.uncertainty.measures import MEASURES, Measure, available_measures


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["measures", *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_table_has_every_measure_with_its_formula(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys).splitlines()
    by_name = {row.split()[0]: row for row in rows if row}
    for name, measure in MEASURES.items():
        assert measure.formula in by_name[name]
        assert f"  {measure.level} " in by_name[name]
    marked = [name for name, row in by_name.items() if name in MEASURES and " (!)" in row]
    assert marked == ["official_mutual_information"]
    assert "ensemble* dirichlet+" in by_name["joint_total_uncertainty_ep"]
    assert by_name["epkl"].endswith("(V−1)/α₀ [2]")
    assert any(row.startswith("[2] Malinin & Gales 2021") for row in rows)


def test_columns_stand_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys).splitlines()
    place = rows[0].index("formula")
    row = next(row for row in rows if row.startswith("unnormalised_epkl_ep"))
    assert row[place:].startswith("L · EPKL (EP)")


def test_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    records = json.loads(listed(capsys, "--format", "json"))
    assert [record["name"] for record in records] == list(MEASURES)
    for record in records:
        assert record.keys() == {field.name for field in fields(Measure)}
        assert record["formula"] == MEASURES[record["name"]].formula


def test_a_choice_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--format", "json", "--model", "dirichlet", "--level", "sequence"]
    names = [record["name"] for record in json.loads(listed(capsys, *options))]
    assert names == [
        name
        for name, measure in MEASURES.items()
        if measure.level == "sequence"
        and (name in available_measures("dirichlet") or measure.added_by == "--feature-density")
    ]


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert "seqdistill measures --format json" in listed(capsys, "--help")


def test_an_unknown_kind_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measures", "--model", "transducer"]) == 2
    assert "transducer" in capsys.readouterr().err
