import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.assessment import auroc, read_best, uncertainty_of
from seqdistill.cli.main import main
from seqdistill.hypotheses import write_hypotheses


def options(folder: Path, *more: str) -> list[str]:
    return [
        "ood",
        *("--in-domain", str(folder / "in_domain.jsonl")),
        *("--out-of-domain", str(folder / "news.jsonl")),
        *("--out-of-domain", f"shuffled={folder / 'permuted.jsonl'}"),
        *("--bootstrap", "20"),
        *more,
    ]


def test_the_real_command(systems: Path, tmp_path: Path) -> None:
    output = tmp_path / "ood.json"
    command = [
        sys.executable, "-m", "seqdistill.cli.main",
        *options(systems / "ensemble", "--output", str(output)),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["measure", "news", "shuffled"]
    assert len(lines) == 2 + 9
    assert sum(line.count("*") for line in lines) >= 2
    assert "bs:20" in done.stderr
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["model"]["kind"] == "ensemble"
    folder = systems / "ensemble"
    scores = [
        uncertainty_of(read_best(folder / name), "epkl")
        for name in ("in_domain.jsonl", "news.jsonl")
    ]
    found = next(r for r in record["results"] if (r["measure"], r["set"]) == ("epkl", "news"))
    assert found["auroc"]["value"] == auroc(*scores)
    assert found["auroc"]["low"] <= found["auroc"]["value"] <= found["auroc"]["high"]
    assert f"{100 * found['auroc']['value']:.1f}" in done.stdout


def test_json_to_stdout_is_what_the_file_holds(
    systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ood.json"
    assert main(options(systems / "student", "--json", "--output", str(output))) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(output.read_text(encoding="utf-8"))


def test_choice_of_measures_metric_and_style(
    systems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--measures", "epkl, data_uncertainty", "--metric", "fpr_at_95_tpr", "--markdown"]
    assert main(options(systems / "student", *more)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["epkl", "data_uncertainty"]
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)


def test_refuses_to_overwrite(
    systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ood.json"
    output.write_text("mine")
    arguments = options(systems / "student", "--output", str(output))
    assert main(arguments) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert output.read_text() != "mine"


def test_two_measures_and_two_systems(
    systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = systems / "student"
    more = ["--versus-measure", "epkl", "--measures", "epkl,data_uncertainty"]
    assert main(options(folder, *more)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[5].split() == ["difference", "news", "shuffled"]
    assert lines[7].count("0.0 [0.0, 0.0] p=1") == 2
    for name in ("in_domain", "news", "permuted"):  # another system: every score halved or so
        rows = read_best(folder / f"{name}.jsonl")
        write_hypotheses(
            tmp_path / f"{name}.jsonl",
            [
                replace(h, uncertainty={"epkl": h.uncertainty["epkl"] ** 0.5 + h.id % 3})
                for h in rows
            ],
        )
    versus = [
        *("--versus-in-domain", str(tmp_path / "in_domain.jsonl")),
        *("--versus-out-of-domain", f"shuffled={tmp_path / 'permuted.jsonl'}"),
        *("--versus-out-of-domain", str(tmp_path / "news.jsonl")),
    ]
    assert main(options(folder, *versus, "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert {c["measure"] for c in record["comparisons"]} == {"epkl"}
    for comparison in record["comparisons"]:
        path = "news.jsonl" if comparison["set"] == "news" else "permuted.jsonl"
        values = [
            auroc(*(uncertainty_of(read_best(f / n), "epkl") for n in ("in_domain.jsonl", path)))
            for f in (folder, tmp_path)
        ]
        found = comparison["numbers"]["auroc"]
        assert [found["first"], found["second"]] == values
        assert found["difference"]["value"] == pytest.approx(values[0] - values[1])
        assert 0.0 < found["p_value"] <= 1.0
        assert "test:paired-bootstrap|sides:2|bs:20" in found["signature"]
    assert main(options(folder, *versus[:4])) == 2
    assert "expected the sets news, shuffled, got shuffled" in capsys.readouterr().err
    assert main(options(folder, *versus[:2])) == 2
    assert "go together" in capsys.readouterr().err
    write_hypotheses(tmp_path / "news.jsonl", read_best(folder / "news.jsonl")[1:])
    assert main(options(folder, *versus)) == 1
    assert "news.jsonl:1: sentence 0 is not in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ('{"schema": "seqdistill.hypothesis/1"}\n', "1: the fields "),
        ("{GOOD}\n{not json\n", "2: not JSON"),
        ("{GOOD}\n\n", "2: empty line"),
        ('{"schema": "other/1"}\n', "1: expected schema"),
        ("{NAN}\n", "1: uncertainty.epkl must be finite"),
        ("{FORCED1}\n", "no hypothesis of rank 0"),
    ],
)
def test_unusable_file_is_named_with_its_line(
    systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    folder = systems / "ensemble"
    with open(folder / "news.jsonl", encoding="utf-8") as handle:
        good = handle.readline().strip()
    record = json.loads(good)
    nan = json.dumps({**record, "uncertainty": {"epkl": float("nan")}})
    worse = json.dumps({**record, "rank": 1})
    bad = tmp_path / "bad.jsonl"
    text = text.replace("{GOOD}", good).replace("{NAN}", nan).replace("{FORCED1}", worse)
    bad.write_text(text, encoding="utf-8")
    assert main(options(folder, "--out-of-domain", str(bad))) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"seqdistill ood: error: {bad}:")
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--measures", "bald"], 1, "unknown measure 'bald' in the in-domain set; present: total_"),
        (["--out-of-domain", "missing.jsonl"], 1, "missing.jsonl: no such file"),
        (["--out-of-domain", "news=x.jsonl"], 2, "'news' stands for two files"),
        (["--out-of-domain", "=x.jsonl"], 2, "expected NAME=PATH"),
        (["--measures", ","], 2, "expected names of measures"),
        (["--bootstrap", "-1"], 1, "0 or more"),
        (["--metric", "accuracy"], 2, "invalid choice"),
    ],
)
def test_unusable_options(
    systems: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    status: int,
    message: str,
) -> None:
    assert main(options(systems / "ensemble", *more)) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_sets_of_another_model_are_refused(
    systems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(systems / "student" / "news.jsonl")
    assert main(options(systems / "ensemble", "--out-of-domain", f"other={other}")) == 1
    assert "expected the output of one model" in capsys.readouterr().err
