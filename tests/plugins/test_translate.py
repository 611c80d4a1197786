"""``seqdistill translate``, from checkpoints on disk to lines of JSON."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_plugins.generation import UncertaintySequenceGenerator
from fairseq_plugins.generation.translator import Translator
from seqdistill.cli.main import main
from seqdistill.errors import InputError
from seqdistill.hypotheses import read_hypotheses
from seqdistill.student import StudentHead
from tests.plugins.tiny_models import collate, save_checkpoint, tiny_dictionary, tiny_model

DICTIONARY = tiny_dictionary()
LINES = ["▁p0 p1 ▁p3", "▁p9", "▁p12 p13 p14 ▁p6 p7 p8 ▁p3 unheard", "", "▁p0 p1 ▁p3"]

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
    return tmp_path


def translate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str, path: str = "1.pt:2.pt"
) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(LINES) + "\n"))
    paths = ":".join(str(folder / name) for name in path.split(":"))
    fixed = ["--path", paths, "--data", str(folder), "-s", "en", "-t", "de", "--cpu"]
    return main(["translate", *fixed, "--beam", "2", "--batch-size", "3", *options])


def records_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_gets_its_best_hypothesis(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # fairseq's limit of the length is that of the longest source in a batch; A = 0 makes it one.
    limits = ["--max-len-a", "0", "--max-len-b", "12"]
    assert translate(folder, monkeypatch, "--threshold", "0.5", *limits) == 0
    captured = capsys.readouterr()
    records = records_of(captured.out)
    assert [r["id"] for r in records] == list(range(len(LINES)))
    assert [r["source"] for r in records] == LINES
    assert records[0]["text"] == records[4]["text"]
    for record in records:
        assert record["ood"] is (record["uncertainty"]["total_uncertainty"] > 0.5)
        assert (record["ood_measure"], record["threshold"]) == ("joint_total_uncertainty_pe", 0.5)
        assert record["model"] == {
            "kind": "ensemble", "members": 2, "predictive": "pe", "offset": None,
            "samples": None, "seed": None,
        }  # fmt: skip
    assert "5 sentences" in captured.err

    models = [tiny_model(seed, DICTIONARY) for seed in (1, 2)]
    source = torch.tensor([DICTIONARY.index(p) for p in LINES[0].split()] + [DICTIONARY.eos()])
    generator = UncertaintySequenceGenerator(
        models, DICTIONARY, beam_size=2, max_len_a=0, max_len_b=12
    )
    ((best, _),) = generator.generate(models, collate(DICTIONARY, [source], None))
    assert records[0]["tokens"] == best["tokens"].tolist()
    assert records[0]["uncertainty"] == pytest.approx(best["uncertainty"], rel=1e-4)


def test_calibration_on_in_domain_sentences(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = folder / "in.jsonl"
    options = ["--measure", "reverse_mutual_information"]
    assert translate(folder, monkeypatch, *options, "--output", str(calibration)) == 0
    assert capsys.readouterr().out == ""
    plain = list(read_hypotheses(calibration))  # the additional fields disturb nobody
    assert len(plain) == len(LINES)
    assert all(r["ood"] is None for r in records_of(calibration.read_text()))

    options += ["--calibrate", str(calibration), "--false-positive-rate", "0.2"]
    assert translate(folder, monkeypatch, *options) == 0
    captured = capsys.readouterr()
    assert sum(r["ood"] for r in records_of(captured.out)) == 1
    assert "at most 20.0% of 5 in-domain sentences" in captured.err

    assert translate(folder, monkeypatch, *options, path="student.pt") == 1
    assert "their uncertainties do not compare" in capsys.readouterr().err


@pytest.mark.parametrize("predictive", ["base", "mean"])
def test_a_dirichlet_student_knows_its_head(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    predictive: str,
) -> None:
    options = [] if predictive == "base" else ["--predictive", predictive]
    assert translate(folder, monkeypatch, *options, path="student.pt") == 0
    for record in records_of(capsys.readouterr().out):
        assert record["model"]["predictive"] == predictive
        assert record["model"]["offset"] == 1.0
        assert "inverse_precision" in record["uncertainty"]


@pytest.mark.parametrize(
    ("options", "path", "status", "message"),
    [
        (["--measure", "mkl"], "1.pt", 2, "known are total_uncertainty"),
        (["--measure", "epkl"], "1.pt", 1, "kind softmax has no epkl; it has total_uncertainty"),
        ([], "missing.pt", 1, "missing.pt: no such file"),
        ([], "1.pt:student.pt", 1, "decoded alone"),
        (["--predictive", "mean"], "1.pt", 1, "needs a Dirichlet student"),
        (["--sentencepiece-model", "no.model"], "1.pt", 1, "no.model: no such file"),
        (["--threshold", "1", "--calibrate", "x"], "1.pt", 2, "not allowed with"),
        (["--beam", "0"], "1.pt", 2, "at least 1"),
    ],
)
def test_mistakes_are_explained(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    path: str,
    status: int,
    message: str,
) -> None:
    assert translate(folder, monkeypatch, *options, path=path) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_an_existing_output_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / "out.jsonl"
    output.write_text("precious")
    assert translate(folder, monkeypatch, "--output", str(output)) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "precious"


def test_other_dictionaries_and_lines_that_are_too_long(folder: Path) -> None:
    translator = Translator([str(folder / "1.pt")], folder, "en", "de", use_cpu=True)
    assert translator.translate([]) == []
    with pytest.raises(InputError, match=r"line 12 has 71 pieces.*at most 64"):
        translator.translate(["▁p0", " ".join(["▁p0"] * 70)], first_id=10)
    tiny_dictionary(30).save(str(folder / "dict.de.txt"))
    with pytest.raises(InputError, match="trained with other dictionaries"):
        Translator([str(folder / "1.pt")], folder, "en", "de", use_cpu=True)


@pytest.mark.parametrize("combination", ["pe", "ep"])
def test_combinations_and_measures(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    combination: str,
) -> None:
    options = ["--ensemble-combination", combination, "--uncertainty-measures", "epkl_ep,entropy"]
    options += ["--measure", "joint_total_uncertainty_ep", "--threshold", "0.5"]
    assert translate(folder, monkeypatch, *options) == 0
    for record in records_of(capsys.readouterr().out):
        assert record["model"]["predictive"] == combination
        # The alarm's measure is computed whether it was asked for or not.
        assert list(record["uncertainty"]) == ["epkl_ep", "entropy", "joint_total_uncertainty_ep"]
        assert list(record["token_uncertainty"]) == ["epkl_ep", "entropy"]
        assert record["ood"] is (record["uncertainty"]["joint_total_uncertainty_ep"] > 0.5)


def test_a_student_with_drawn_members(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dirichlet-samples", "5", "--measure", "joint_reverse_mutual_information_ep"]
    assert translate(folder, monkeypatch, *options, path="student.pt") == 0
    for record in records_of(capsys.readouterr().out):
        assert record["uncertainty"]["joint_reverse_mutual_information_ep"] >= 0
    assert translate(folder, monkeypatch, *options[2:], path="student.pt") == 1
    assert "--dirichlet-samples" in capsys.readouterr().err


def test_an_alarm_needs_a_measure_that_points_upwards(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--measure", "official_mutual_information"]
    assert translate(folder, monkeypatch, *options, path="student.pt") == 2
    assert "comparison only" in capsys.readouterr().err


def test_n_best_lists_and_their_alarm(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = folder / "lists.jsonl"
    assert translate(folder, monkeypatch, "--nbest", "2", "--output", str(lists)) == 0
    pairs = list(read_hypotheses(lists))
    assert [(h.id, h.rank) for h in pairs] == [(n, r) for n in range(len(LINES)) for r in (0, 1)]
    name = "joint_total_uncertainty_pe"
    means = [
        (one.uncertainty[name] + two.uncertainty[name]) / 2
        for one, two in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    # Between the least and the greatest mean; lines 0 and 4 are the same sentence.
    threshold = sum(sorted(means)[1:3]) / 2
    capsys.readouterr()
    alarm = ["--nbest", "2", "--nbest-aggregation", "uniform", "--threshold", str(threshold)]
    assert translate(folder, monkeypatch, *alarm) == 0
    records = records_of(capsys.readouterr().out)
    assert [r["ood"] for r in records[::2]] == [mean > threshold for mean in means]
    assert [r["ood"] for r in records[::2]] == [r["ood"] for r in records[1::2]]

    options = ["--nbest-aggregation", "uniform", "--calibrate", str(lists)]
    assert translate(folder, monkeypatch, *options, "--nbest", "2") == 0
    assert records_of(capsys.readouterr().out)[0]["threshold"] == pytest.approx(max(means))
    assert translate(folder, monkeypatch, *options) == 2
    assert "needs --nbest N" in capsys.readouterr().err
    assert translate(folder, monkeypatch, "--nbest", "3") == 2
    assert "a beam of 2 finds no more" in capsys.readouterr().err
