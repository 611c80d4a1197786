import json
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.cli.main import main
from seqdistill.hypotheses import read_hypotheses, write_hypotheses


@pytest.fixture
def files(systems: Path, tmp_path: Path) -> dict[str, str]:
    """What a student decoded of the ensemble's sentences, and what a worse one did."""
    theirs = list(read_hypotheses(systems / "ensemble" / "in_domain.jsonl"))
    mine = list(read_hypotheses(systems / "student" / "in_domain.jsonl"))
    paths = {"ensemble": str(systems / "ensemble" / "in_domain.jsonl")}
    for name, suffix in (("near", ""), ("far", " wrong words")):
        paths[name] = str(tmp_path / f"{name}.jsonl")
        rows = [
            replace(h, text=t.text + suffix, reference=t.reference, source=t.source)
            for h, t in zip(mine, theirs, strict=True)
        ]
        write_hypotheses(paths[name], rows)
    return paths


def test_a_table_of_groups_and_the_record(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "groups.json"
    command = [
        "groups", files["near"], files["far"], "--reference", files["ensemble"], "--bins", "2",
        "--bootstrap", "20", "--baseline", "near", "--output", str(output),
    ]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].startswith("words of the sentence")
    assert "near: Δ missed, %" in lines[0]
    assert any(line.startswith("over all groups") for line in lines)
    assert any(line.startswith("difference to near") for line in lines)
    assert "metric:combined_error_variance|match:bag" in shown.err
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["schema"] == "seqdistill.groups/1"
    near, far = (record["systems"][name] for name in ("near", "far"))
    assert near["combined_error_variance"]["value"] == 0.0  # the ensemble's own texts
    assert far["symmetric_distance_error"]["value"] > 0.0
    assert all(group["missed_change"]["value"] == 0.0 for group in far["groups"])
    assert all(group["false_change"]["value"] > 0.0 for group in far["groups"])
    assert record["comparisons"]["far"]["symmetric_distance_error"]["p_value"] is not None


def test_scored_texts_and_words(
    files: dict[str, str], systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forced = str(systems / "ensemble" / "forced.jsonl")
    assert main(["groups", f"same={forced}", "--reference", forced, "--bootstrap", "0"]) == 0
    assert "same: nll − nll_ref" in capsys.readouterr().out
    text = tmp_path / "train.txt"
    text.write_text("the house\nthe tree\n", encoding="utf-8")
    command = ["groups", files["far"], "--reference", files["ensemble"], "--markdown", "--by"]
    assert main([*command, "word", "--training-text", str(text), "--edges", "1,2"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| 0 ")


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--baseline", "other"], 2, "--baseline"),
        (["--edges", "a,b"], 2, "--edges"),
        (["--groups", "x"], 2, "--groups belongs to --by file"),
        (["--by", "word"], 1, "--training-text"),
        (["--bins", "0"], 1, "at least 1 group"),
    ],
)
def test_bad_input(
    files: dict[str, str], options: list[str], status: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["groups", files["near"], "--reference", files["ensemble"], *options]
    assert main(command) == status
    assert message in capsys.readouterr().err


def test_decoded_beside_scored_is_refused(
    files: dict[str, str], systems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forced = str(systems / "ensemble" / "forced.jsonl")
    assert main(["groups", files["near"], "--reference", forced]) == 1
    assert "was decoded and the other scored" in capsys.readouterr().err
