import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seqdistill.assessment import compare_numbers, word_errors
from seqdistill.assessment.word_alignment import Aligned, align_words
from seqdistill.cli.main import main
from seqdistill.hypotheses import Hypothesis, ModelInfo, write_hypotheses
from seqdistill.report.alignments import format_alignment

REFERENCES = ["one two three", "NINE, four", "zero zero", "yes"]
TRANSCRIPTS = {
    "teacher": ["one two three", "nine for", "zero", "oh no yes"],
    "student": ["one too three", "NINE, four", "", "yes"],
}


def transcript(number: int, text: str, reference: str | None) -> Hypothesis:
    return Hypothesis(
        id=number,
        rank=0,
        text=text,
        tokens=[5, 2],
        pieces=["▁x", "</s>"],
        log_prob=-0.2,
        token_log_probs=[-0.1, -0.1],
        token_uncertainty={},
        uncertainty={"total_uncertainty": 0.1 * number},
        model=ModelInfo("softmax", 1, "softmax"),
        source=f"1089-{number:04d}",
        reference=reference,
    )


@pytest.fixture
def decoded(tmp_path: Path) -> Path:
    """Folders of two systems with the sets ``test`` and, without references, ``noise``."""
    for system, texts in TRANSCRIPTS.items():
        rows = [transcript(i, t, r) for i, (t, r) in enumerate(zip(texts, REFERENCES, strict=True))]
        write_hypotheses(tmp_path / system / "test.jsonl", rows)
        bare = [replace(row, reference=None) for row in rows]
        write_hypotheses(tmp_path / system / "noise.jsonl", bare)
    return tmp_path


def test_the_real_command(decoded: Path) -> None:
    output = decoded / "wer.json"
    files = [f"{name}={decoded / name / 'test.jsonl'}" for name in TRANSCRIPTS]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "seqdistill.cli.main", "wer", *files,
         "--bootstrap", "50", "--seed", "3", "--show", "1", "--output", str(output)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["system", "utterances", "words", "WER,", "%"]
    # By hand, of 8 words: "NINE," and "four" substituted, a zero deleted, "oh no" inserted.
    assert lines[2].split()[:4] == ["teacher", "4", "8", "62.5"]
    assert lines[3].split()[:4] == ["student", "4", "8", "37.5"]
    assert "student − teacher" in done.stdout
    assert "-25.0 [" in done.stdout
    for line in (
        "teacher, utterance 3 (1089-0003): errors 2, reference words 1",
        "ref  ** ** yes",
        "student, utterance 2 (1089-0002): errors 2, reference words 2",
        "ref  zero zero",
        "hyp  **** ****",
    ):
        assert line in lines
    assert "metric:wer|nrefs:1|unit:words|case:mixed|punct:kept|space:collapsed|" in done.stderr
    assert "n:4|ref:8|bs:50|rs:3|ci:95|version:" in done.stderr
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["schema"] == "seqdistill.wer/1"
    found = {
        name: word_errors(texts, REFERENCES, resamples=50, seed=3)
        for name, texts in TRANSCRIPTS.items()
    }
    for result in record["results"]:
        expected = found[result["system"]]
        utterances = result["errors"].pop("utterances")
        assert result["errors"] == expected.to_dict()
        assert utterances["id"] == [0, 1, 2, 3]
        for name in ("substitutions", "insertions", "deletions", "hits"):
            assert utterances[name] == getattr(expected.words, name).tolist()
    (compared,) = record["comparisons"]
    rates = compare_numbers(found["student"].rates, found["teacher"].rates)
    assert compared["numbers"]["wer"]["difference"]["value"] == rates["wer"].difference.value
    assert compared["numbers"]["wer"]["p_value"] == rates["wer"].p_value
    assert "test:paired-bootstrap|sides:2|bs:50|rs:3" in compared["numbers"]["wer"]["signature"]


def test_sets_of_folders(decoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(decoded / name) for name in TRANSCRIPTS]
    command = ["wer", *folders, "--set", "test", "--set", "noise", "--bootstrap", "0"]
    assert main([*command, "--markdown"]) == 0
    printed = capsys.readouterr()
    rows = [line for line in printed.out.splitlines() if line.startswith("| ")]
    heads = [row.strip("| ").split(" | ")[0].strip() for row in rows if not row.startswith("| --")]
    assert heads == [
        "system", "teacher, test", "student, test", "difference, points", "student, test − teacher",
    ]  # fmt: skip
    assert "student, noise: no references in" in printed.err
    assert main([*command, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [(r["system"], r["set"], r["errors"] is None) for r in results] == [
        ("teacher", "test", False), ("student", "test", False),
        ("teacher", "noise", True), ("student", "noise", True),
    ]  # fmt: skip


def test_normalisation_and_references(decoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rate(*command: str) -> float:
        assert main(["wer", *command, "--bootstrap", "0", "--json"]) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        return result["errors"]["rates"]["wer"]["value"]

    file = str(decoded / "teacher" / "test.jsonl")
    assert rate(file) == 5 / 8
    assert rate(file, "--lowercase") == 5 / 8
    assert rate(file, "--lowercase", "--remove-punctuation") == 4 / 8
    text = decoded / "references.txt"
    text.write_text("".join(f"{r}\n" for r in REFERENCES), encoding="utf-8")
    bare = str(decoded / "teacher" / "noise.jsonl")
    assert rate(bare, "--references", str(text)) == 5 / 8


def test_alignment_as_text() -> None:
    assert format_alignment(align_words("a b", "a b")) == "ref  a b\nhyp  a b"
    assert format_alignment([]) == "ref\nhyp"
    places = [Aligned("one", "one"), Aligned("two", None), Aligned(None, "too"), Aligned("x", "yy")]
    expected = "ref  one two\nhyp  one ***\n          D\nref  *** x\nhyp  too yy\n      I  S"
    assert format_alignment(places, width=12) == expected
    # A word that is wider than a line still has its own.
    assert format_alignment(places[:1], width=3) == "ref  one\nhyp  one"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{d}/teacher"], 1, "is a folder: say with --set which of its sets: noise, test"),
        (["{d}/teacher", "--set", "tset"], 1, "there is no tset.jsonl; sets there: noise, test"),
        (["{d}/teacher/test.jsonl", "--set", "test"], 1, "not a folder; --set test reads"),
        (["{d}/teacher/noise.jsonl"], 1, "no utterance has a reference; give --references"),
        (["{d}/teacher/test.jsonl", "{d}/student/test.jsonl"], 2, "stands for two files"),
        (["{d}/teacher/test.jsonl", "--show", "-1"], 2, "expected 0 or more, got -1"),
        (["{d}/teacher/test.jsonl", "--bootstrap", "-1"], 1, "0 or more"),
        (["{d}/teacher", "--set", "a", "--set", "b", "--references", "x"], 2, "of one set"),
    ],
)
def test_bad_use(
    decoded: Path, capsys: pytest.CaptureFixture[str], arguments: list, status: int, message: str
) -> None:
    assert main(["wer", *(word.format(d=decoded) for word in arguments)]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": None}, "changed.jsonl:2: sentence 1 has no reference"),
        ({"reference": "nine"}, "changed.jsonl:2: the reference of utterance 1 is not that of"),
        ({"source": "other"}, "the source of sentence 1 is not that of"),
        ({"forced": True}, "changed.jsonl:1: a given text was scored here, not searched for"),
    ],
)
def test_transcripts_that_do_not_fit_are_named(
    decoded: Path, capsys: pytest.CaptureFixture[str], change: dict, message: str
) -> None:
    rows = [transcript(i, "x", r) for i, r in enumerate(REFERENCES)]
    changed = decoded / "changed.jsonl"
    at = 0 if "forced" in change else 1
    rows[at] = replace(rows[at], **change)
    write_hypotheses(changed, rows)
    first = decoded / "teacher" / "test.jsonl"
    assert main(["wer", str(first), str(changed), "--bootstrap", "0"]) == 1
    assert message in capsys.readouterr().err
