"""``seqdistill score``: given translations, force-decoded, from files on disk to JSONL."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_plugins.generation import UncertaintyScorer
from fairseq_plugins.generation.translator import Translator
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.hypotheses import read_hypotheses
from seqdistill.student import StudentHead
from seqdistill.uncertainty.estimators import UncertaintyOptions
from seqdistill.uncertainty.measures import available_measures, measures_of
from tests.plugins.tiny_models import (
    VOCABULARY,
    collate,
    save_checkpoint,
    tiny_dictionary,
    tiny_model,
    tiny_settings,
)
from tests.reference.second_readings import divergence, log_partition

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


def predictive(models: list[Any], source: str, target: str, how: str) -> torch.Tensor:
    """Return (T, V) probabilities of a system along a target, in float64, a token after another."""
    source_row, row = (
        torch.tensor([[DICTIONARY.index(p) for p in text.split()] + [DICTIONARY.eos()]])
        for text in (source, target)
    )
    previous = torch.cat([row[:, -1:], row[:, :-1]], dim=1)
    rows = []
    weights = [1.0] * len(models)
    for position in range(row.shape[1]):
        members = []
        for model in models:
            with torch.no_grad():
                out = model(source_row, torch.tensor([source_row.shape[1]]), previous)[0]
            z = out[0, position].double()
            alpha = z.exp() + 1.0
            members.append(alpha / alpha.sum() if how == "mean" else z.softmax(-1))
        total = sum(w * p for w, p in zip(weights, members, strict=True))
        rows.append(total / sum(weights))
        if how == "ep":
            token = row[0, position]
            weights = [w * p[token].item() for w, p in zip(weights, members, strict=True)]
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("path", "how", "against", "against_how"),
    [
        ("student.pt", "base", "1.pt:2.pt", "pe"),
        ("student.pt", "mean", "1.pt:2.pt", "ep"),
        ("1.pt", "softmax", "1.pt:2.pt", "pe"),
        ("1.pt:2.pt", "ep", "student.pt", "mean"),
        ("student.pt", "base", "student.pt", "mean"),
    ],
)
def test_exact_comparisons_with_a_second_system(
    folder: Path, capsys: pytest.CaptureFixture[str], path: str, how: str, against: str,
    against_how: str,
) -> None:  # fmt: skip
    options = ["--against", ":".join(str(folder / name) for name in against.split(":"))]
    for option, value in (("", how), ("against-", against_how)):
        if value in ("pe", "ep"):
            name = f"--{option}combination" if option else "--ensemble-combination"
            options += [name, value]
        elif value != "softmax":
            options += [f"--{option}predictive", value]
    assert score(folder, *options, "--temperatures", "0.5,2", path=path) == 0
    captured = capsys.readouterr()
    assert "against " in captured.err
    records = [json.loads(line) for line in captured.out.splitlines()]
    student = tiny_model(3, DICTIONARY)
    teachers = [tiny_model(seed, DICTIONARY) for seed in (1, 2)]
    systems = {"student.pt": [student], "1.pt:2.pt": teachers, "1.pt": teachers[:1]}
    for source, translation, record in zip(SOURCES, TRANSLATIONS, records, strict=True):
        p, q = (
            predictive(systems[names], source, translation, way)
            for names, way in ((path, how), (against, against_how))
        )
        expected = [divergence(*rows) for rows in zip(q.tolist(), p.tolist(), strict=True)]
        found = record["against"]
        assert found["token_kl_divergence"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert found["token_top1_agreement"] == (p.argmax(-1) == q.argmax(-1)).tolist()
        assert found["model"]["predictive"] == against_how
        assert record["model"]["predictive"] == how
        assert record["tempered"]["temperatures"] == [0.5, 2.0]
        for temperature, row in zip(
            (0.5, 2.0), record["tempered"]["token_log_partitions"], strict=True
        ):
            loop = [log_partition(one, temperature) for one in p.tolist()]
            assert row == pytest.approx(loop, rel=1e-4, abs=1e-5)


def test_a_system_against_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = str(folder / "1.pt"), str(folder / "2.pt")
    assert score(folder, "--against", ":".join(both), "--against-combination", "pe") == 0
    for record in records_of(capsys):
        assert record["against"]["model"] == record["model"]
        assert set(record["against"]["token_kl_divergence"]) == {0.0}
        assert set(record["against"]["token_top1_agreement"]) == {True}
        assert record["tempered"] is None


def test_a_second_system_with_other_dictionaries(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = tiny_dictionary(VOCABULARY + 1)
    save_checkpoint(folder / "larger.pt", tiny_model(5, larger))
    assert score(folder, "--against", str(folder / "larger.pt")) == 1
    assert "25 vocabulary entries, the data's dictionary 24" in capsys.readouterr().err
    # The same size, other pieces: told by the dictionary beside the checkpoint.
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    renamed = Dictionary()
    for piece in reversed(DICTIONARY.symbols[DICTIONARY.nspecial :]):
        renamed.add_symbol(piece)
    for language in ("en", "de"):
        renamed.save(str(elsewhere / f"dict.{language}.txt"))
    settings = tiny_settings()
    settings.source_lang, settings.target_lang = "en", "de"
    save_checkpoint(elsewhere / "other.pt", tiny_model(5, DICTIONARY))
    state = torch.load(elsewhere / "other.pt")
    torch.save(state | {"args": settings}, elsewhere / "other.pt")
    assert score(folder, "--against", str(elsewhere / "other.pt")) == 1
    assert "differs from the data's at entry" in capsys.readouterr().err


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
        (["--against", "NO"], True, 1, "NO: no such file"),
        (["--temperatures", "0,1"], True, 2, "--temperatures: expected temperatures above 0"),
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
