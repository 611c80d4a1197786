import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.assessment import (
    read_best,
    reject,
    sentence_quality,
    uncertainty_of,
    word_errors,
)
from seqdistill.cli.main import main
from seqdistill.hypotheses import write_hypotheses
from tests.reference.hypothesis_sets import make_hypotheses


def options(folder: Path, *more: str) -> list[str]:
    return ["errors", str(folder / "in_domain.jsonl"), "--bootstrap", "20", *more]


def test_the_real_command(systems: Path, tmp_path: Path) -> None:
    output, diagram = tmp_path / "errors.json", tmp_path / "curves.svg"
    command = [
        sys.executable, "-m", "seqdistill.cli.main",
        *options(systems / "ensemble", "--output", str(output), "--diagram", str(diagram)),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["measure", "PRR", "R-AUC", "F1-AUC", "F1@95", "AURC"]
    assert len(lines) == 2 + 9
    assert "metric:prr|random:closed|ties:shared|quality:[nrefs:1;" in done.stderr
    assert "bs:20|rs:0|ci:95|version:" in done.stderr
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["schema"] == "seqdistill.errors/1"
    best = read_best(systems / "ensemble" / "in_domain.jsonl")
    quality = sentence_quality([h.text for h in best], [h.reference for h in best])
    expected = reject(quality, uncertainty_of(best, "epkl"), resamples=0)
    (found,) = [row for row in record["results"] if row["measure"] == "epkl"]
    assert found["numbers"]["prr"]["value"] == pytest.approx(expected.prr.value)
    assert found["curve"]["curve"][0] == pytest.approx(quality.mean(), abs=1e-5)
    assert found["curve"]["curve"][-1] == 100.0
    for row in record["results"]:
        for number in row["numbers"].values():
            assert number["signature"].startswith(f"measure:{row['measure']}|")
            assert number["low"] <= number["high"]
    drawn = diagram.read_text(encoding="utf-8")
    assert "best order" in drawn
    assert "epkl" in drawn


def test_two_systems_and_two_measures(
    systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "student.jsonl"
    pairs = zip(make_hypotheses(60, kind="dirichlet"), make_hypotheses(60), strict=True)
    write_hypotheses(
        other, [replace(h, source=e.source, reference=e.reference, text=e.text) for h, e in pairs]
    )
    assert main(options(systems / "ensemble", "--versus", str(other), "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    # Measures that only one of the two has are left out.
    assert "joint_total_uncertainty_ep" not in {c["measure"] for c in record["comparisons"]}
    by_measure = {c["measure"]: c["numbers"] for c in record["comparisons"]}
    assert "test:paired-bootstrap" in by_measure["epkl"]["prr"]["signature"]
    more = [
        "--versus-measure",
        "epkl",
        "--measures",
        "epkl,data_uncertainty",
        "--show",
        "prr,bleu@1",
    ]
    assert main(options(systems / "ensemble", *more, "--markdown")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| measure ")
    same = next(line for line in lines[5:] if line.startswith("| epkl"))
    assert same.count("0.0 [0.0, 0.0] p=1") == 2


def test_references_from_a_file(
    systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare.jsonl"
    hypotheses = make_hypotheses(60)
    write_hypotheses(bare, [replace(h, reference=None) for h in hypotheses])
    text = tmp_path / "references.txt"
    text.write_text("".join(f"{h.reference}\n" for h in hypotheses), encoding="utf-8")
    assert main(["errors", str(bare), "--references", str(text), "--bootstrap", "0"]) == 0
    given = capsys.readouterr().out
    assert main(options(systems / "ensemble", "--bootstrap", "0")) == 0
    assert capsys.readouterr().out == given
    assert main(["errors", str(bare)]) == 1
    assert f"{bare}:1: sentence 0 has no reference" in capsys.readouterr().err
    text.write_text("one\ntwo\n", encoding="utf-8")
    assert main(["errors", str(bare), "--references", str(text)]) == 1
    assert "references.txt has 2 lines, but" in capsys.readouterr().err


@pytest.mark.parametrize("quality", ["bleu", "ter", "wer"])
def test_qualities(systems: Path, capsys: pytest.CaptureFixture[str], quality: str) -> None:
    assert (
        main(options(systems / "ensemble", "--quality", quality, "--acceptable-error", "0.3")) == 0
    )
    assert f"by sentence {quality}" in capsys.readouterr().err


def lines_of(hypotheses: list, changes: dict[int, dict]) -> str:
    records = [json.loads(h.to_json()) | changes.get(i, {}) for i, h in enumerate(hypotheses)]
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({2: {"schema": "seqdistill.hypothesis/2"}}, "3: expected schema 'seqd"),
        ({2: {"uncertainty": {"epkl": 1.0}}}, "3: this line and line 1 differ in the measures"),
        ({1: {"uncertainty": {"epkl": float("nan")}}}, "2: uncertainty.epkl must be finite"),
        ({2: {"id": 1}}, "3: sentence 1 has two hypotheses of rank 0 (the other is on line 2)"),
        ({1: {"reference": None}}, "2: sentence 1 has no reference"),
        ({2: {"model": {"kind": "softmax", "members": 1, "predictive": "x"}}}, "3: expected the"),
        ({i: {"text": "x"} for i in range(4)}, "no sentence has an error of at most 0.6"),
    ],
)  # fmt: skip
def test_unusable_file_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, message: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(lines_of(make_hypotheses(4), changes), encoding="utf-8")
    assert main(["errors", str(bad)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"seqdistill errors: error: {bad}:")
    assert message in captured.err
    assert captured.out == ""


def test_systems_on_other_sentences(
    systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    write_hypotheses(other, make_hypotheses(59, kind="dirichlet"))
    assert main(options(systems / "ensemble", "--versus", str(other))) == 1
    assert f"in_domain.jsonl:60: sentence 59 is not in {other}" in capsys.readouterr().err
    write_hypotheses(other, make_hypotheses(60, seed=7))
    assert main(options(systems / "ensemble", "--versus", str(other))) == 1
    assert "the source of sentence 0 is not that of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--measures", "bald"], 1, "unknown measure 'bald'"),
        (["--versus-measure", "bald"], 1, "unknown measure 'bald'"),
        (["--acceptable-error", "1.5"], 1, "must lie between 0 and 1"),
        (["--acceptable-error", "0"], 1, "must lie between 0 and 1"),
        (["--coverage", "0.5,1.5"], 2, "a coverage must lie above 0"),
        (["--coverage", "half"], 2, "expected numbers"),
        (["--show", "auc"], 1, "--show: unknown auc; there are prr,"),
        (["--quality", "gleu"], 2, "invalid choice"),
        (["--diagram", "curves.pdf"], 1, "ends in .svg or .png"),
        (["--bootstrap", "-1"], 1, "0 or more"),
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


def test_word_errors(systems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def record(*more: str) -> dict:
        command = options(systems / "ensemble", "--bootstrap", "0", "--measures", "epkl", "--json")
        assert main([*command, "--quality", "wer", *more]) == 0
        return json.loads(capsys.readouterr().out)["results"][0]

    found = record("--coverage", "0.5,1")
    best = read_best(systems / "ensemble" / "in_domain.jsonl")
    texts = [h.text for h in best], [h.reference for h in best]
    rate = word_errors(*texts, resamples=0).rates.numbers["wer"].value
    assert found["numbers"]["wer@1"]["value"] == pytest.approx(100 * rate)
    assert "metric:selective_wer|coverage:1|" in found["numbers"]["wer@1"]["signature"]
    assert "quality:[nrefs:1;unit:words;case:mixed;" in found["numbers"]["prr"]["signature"]
    assert "bleu@1" not in found["numbers"]
    assert found["acceptable_error"] == 0.1
    lower = record("--lowercase", "--remove-punctuation", "--acceptable-error", "0.3")
    assert "case:lower;punct:removed" in lower["numbers"]["prr"]["signature"]
    assert lower["acceptable_error"] == 0.3
    assert main(options(systems / "ensemble", "--lowercase")) == 2
    assert "belong to --quality wer" in capsys.readouterr().err
    assert main(options(systems / "ensemble", "--quality", "wer", "--show", "bleu@1")) == 1
    assert "unknown bleu@1; there are" in capsys.readouterr().err
