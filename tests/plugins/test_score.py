"""``seqdistill score``: given translations, force-decoded, from files on disk to JSONL."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_plugins.generation import UncertaintyScorer
from fairseq_plugins.generation.translator import Translator
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.hypotheses import read_hypotheses
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import UncertaintyOptions
from seqdistill.uncertainty.measures import available_measures, measures_of
from tests.plugins.tiny_models import collate, save_checkpoint, tiny_dictionary, tiny_model

DICTIONARY = tiny_dictionary()
SOURCES = ["▁p0 p1 ▁p3", "▁p9", "▁p12 p13 p14 ▁p6 p7 p8", "", "▁p0 p1"]
TRANSLATIONS = ["▁p6 p7", "▁p0 p1 p2 ▁p3 unheard", "▁p9", "▁p6", ""]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    # fairseq, while a checkpoint is loaded
    pytest.mark.filterwarnings("ignore::UserWarning:hydra"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for language in ("en", "de"):
        DICTIONARY.save(str(tmp_path / f"dict.{language}.txt"))
    for seed in (1, 2):
        save_checkpoint(tmp_path / f"{seed}.pt", tiny_model(seed, DICTIONARY))
    student = tiny_model(3, DICTIONARY, StudentHead("dirichlet", 1.0, "base"))
    save_checkpoint(tmp_path / "student.pt", student)
    (tmp_path / "source").write_text("\n".join(SOURCES) + "\n", encoding="utf-8")
    (tmp_path / "given").write_text("\n".join(TRANSLATIONS) + "\n", encoding="utf-8")
    return tmp_path


def score(folder: Path, *options: str, path: str = "1.pt:2.pt", files: bool = True) -> int:
    paths = ":".join(str(folder / name) for name in path.split(":"))
    fixed = ["--path", paths, "--data", str(folder), "-s", "en", "-t", "de", "--cpu"]
    if files:
        fixed += ["--source", str(folder / "source"), "--translations", str(folder / "given")]
    return main(["score", *fixed, "--batch-size", "2", *options])


def records_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("combination", ["pe", "ep"])
def test_every_translation_is_scored(
    folder: Path, capsys: pytest.CaptureFixture[str], combination: str
) -> None:
    options = ["--uncertainty-measures", "all", "--ensemble-combination", combination]
    references = folder / "references"
    references.write_text("\n".join(f"reference {n}" for n in range(5)) + "\n", encoding="utf-8")
    assert score(folder, *options, "--references", str(references)) == 0
    records = records_of(capsys)
    assert [r["id"] for r in records] == list(range(5))
    assert [r["source"] for r in records] == SOURCES
    assert [r["text"] for r in records] == TRANSLATIONS
    assert [r["reference"] for r in records] == [f"reference {n}" for n in range(5)]
    models = [tiny_model(seed, DICTIONARY) for seed in (1, 2)]
    scorer = UncertaintyScorer(DICTIONARY, options=UncertaintyOptions(("all",), combination))
    for source, translation, record in zip(SOURCES, TRANSLATIONS, records, strict=True):
        assert record["forced"]
        assert record["model"]["predictive"] == combination
        assert record["pieces"] == [*translation.replace("unheard", "<unk>").split(), "</s>"]
        assert set(record["uncertainty"]) == set(available_measures("ensemble"))
        assert len(record["token_correct"]) == len(record["tokens"])
        rows = [
            torch.tensor([DICTIONARY.index(p) for p in text.split()] + [DICTIONARY.eos()])
            for text in (source, translation)
        ]
        ((expected,),) = scorer.generate(models, collate(DICTIONARY, rows[:1], rows[1:]))
        assert record["uncertainty"] == pytest.approx(expected["uncertainty"], rel=1e-4, abs=1e-5)
        assert record["token_log_probs"] == pytest.approx(
            expected["token_log_probs"].tolist(), rel=1e-4, abs=1e-5
        )


def test_a_student_with_drawn_members(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = ["--dirichlet-samples", "4", "--dirichlet-seed", "7"]
    found = []
    for _ in range(2):
        assert score(folder, *drawn, path="student.pt") == 0
        found.append(records_of(capsys))
    assert found[0] == found[1]
    assert set(found[0][0]["uncertainty"]) == {
        *measures_of("dirichlet"),
        "joint_total_uncertainty_ep",
        "joint_reverse_mutual_information_ep",
    }


def test_hypotheses_of_another_system(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = folder / "first.jsonl", folder / "second.jsonl"
    assert score(folder, "--output", str(first), path="student.pt") == 0
    rows = [json.loads(line) for line in first.read_text(encoding="utf-8").splitlines()]
    rows[1] |= {"id": 0, "rank": 1, "reference": "a reference"}
    first.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = ["--hypotheses", str(first), "--output", str(second)]
    assert score(folder, *given, files=False) == 0
    scored = list(read_hypotheses(second))
    assert [(h.id, h.rank) for h in scored] == [(0, 0), (0, 1), (2, 0), (3, 0), (4, 0)]
    assert [h.text for h in scored] == TRANSLATIONS
    assert scored[1].reference == "a reference"
    assert scored[0].model.kind == "ensemble"
    assert "scoring with ensemble of 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "files", "status", "message"),
    [
        (["--hypotheses", "x"], True, 2, "give no other text"),
        ([], False, 2, "--source and --translations, or --hypotheses"),
        (["--references", "NO"], True, 1, "NO: no such file"),
        (["--references", "SHORT"], True, 1, "has 1 lines and"),
        (["--references", "EMPTY"], True, 1, "the file is empty"),
        (["--references", "LATIN"], True, 1, "not UTF-8"),
        (["--uncertainty-measures", "mkl"], True, 2, "unknown measure 'mkl'"),
        (["--uncertainty-measures", "inverse_precision"], True, 1, "kind ensemble has no inverse"),
        (["--dirichlet-samples", "4"], True, 1, "no model here is one"),
        (["--dirichlet-samples", "1"], True, 2, "at least 2"),
        (["--target-sentencepiece-model", "NO"], True, 1, "NO: no such file"),
        (["--ensemble-combination", "both"], True, 2, "invalid choice"),
    ],
)
def test_mistakes_are_explained(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    files: bool,
    status: int,
    message: str,
) -> None:
    (folder / "SHORT").write_text("one line\n")
    (folder / "EMPTY").write_text("")
    (folder / "LATIN").write_bytes("für\n".encode("latin-1"))
    options = [str(folder / o) if o.isupper() else o for o in options]
    assert score(folder, *options, files=files) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_translation_that_is_too_long(folder: Path) -> None:
    translator = Translator([str(folder / "1.pt")], folder, "en", "de", use_cpu=True)
    with pytest.raises(InputError, match=r"line 3 has 71 pieces.*at most 64"):
        translator.score(["▁p0"] * 2, ["▁p0", " ".join(["▁p0"] * 70)], first_id=1)
    with pytest.raises(InputError, match="as many references as sources, got 1 and 2"):
        translator.score(["▁p0"] * 2, ["▁p0"] * 2, ["one"])
    assert translator.score([], []) == []


def test_an_existing_output_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "out.jsonl"
    output.write_text("precious")
    assert score(folder, "--output", str(output)) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "precious"
