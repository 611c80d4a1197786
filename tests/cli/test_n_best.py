import json
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.assessment import auroc
from seqdistill.cli.main import main
from seqdistill.hypotheses import write_hypotheses
from tests.reference.hypothesis_sets import make_hypotheses

MEASURE = "total_uncertainty"


def write_lists(path: Path, difficulty: float, seed: int) -> list[float]:
    """Write lists of two hypotheses, P 3 : 1; returns the weighted averages of a measure."""
    lists, averages = [], []
    others = make_hypotheses(40, difficulty=difficulty, seed=seed + 100)
    for one, other in zip(
        make_hypotheses(40, difficulty=difficulty, seed=seed), others, strict=True
    ):
        other = replace(other, rank=1, log_prob=one.log_prob - 1.0986122886681098)
        averages.append(0.75 * one.uncertainty[MEASURE] + 0.25 * other.uncertainty[MEASURE])
        lists += [one, other]
    write_hypotheses(path, lists)
    return averages


@pytest.mark.parametrize("verb", ["ood", "errors", "report"])
def test_weighted_averages(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, news = tmp_path / "test.jsonl", tmp_path / "news.jsonl"
    inside, outside = write_lists(test, 0.0, 1), write_lists(news, 0.5, 2)
    ending = "html" if verb == "report" else "json"
    output = tmp_path / f"result.{ending}"
    files = [str(test)] if verb == "errors" else ["--in-domain", str(test)]
    files += [] if verb == "errors" else ["--out-of-domain", str(news)]
    more = ["--nbest-aggregation", "weighted", "--bootstrap", "0", "--measures", MEASURE]
    assert main([verb, *files, *more, "--output", str(output)]) == 0, capsys.readouterr().err
    text = output.read_text(encoding="utf-8")
    assert "nbest:2|aggregation:softmax(lnP/1)|" in text.replace("&#124;", "|")
    if verb == "ood":
        found = json.loads(text)["results"][0]["auroc"]["value"]
        assert found == pytest.approx(auroc(inside, outside), abs=1e-12)
    assert main([verb, *files, "--bootstrap", "0", "--output", str(output), "--overwrite"]) == 0
    assert "aggregation:" not in output.read_text(encoding="utf-8")


def test_a_temperature_without_weights_is_wrong_usage(
    systems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(systems / "ensemble" / "in_domain.jsonl")
    for wrong in (
        ["--nbest-temperature", "2"],
        ["--nbest-aggregation", "weighted", "--nbest-temperature", "0"],
    ):
        assert main(["errors", path, *wrong]) == 2
        assert "--nbest-temperature" in capsys.readouterr().err


def test_a_file_without_lists(systems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(systems / "ensemble" / "in_domain.jsonl")
    assert main(["errors", path, "--nbest-aggregation", "uniform"]) == 1
    assert "every sentence has one hypothesis" in capsys.readouterr().err
