"""The demo at its smallest, whole, through the real command lines: text in, report out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.common.recipe import REPOSITORY, load
from seqdistill.assessment.gradient_files import read_gradients
from seqdistill.hypotheses import read_hypotheses
from seqdistill.uncertainty.measures import measures_of

pytestmark = pytest.mark.slow

SYSTEMS = {"ensemble": "ensemble", "end": "softmax", "proxy": "dirichlet"}


def run_demo(work: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipes.common.run", "recipes/demo", "--work-dir", str(work)]
    return subprocess.run(
        [*command, "--set", "scale=tiny", *more],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The work folder of a finished run, and what the run printed to stdout."""
    pytest.importorskip("fairseq", reason="needs the extra seqdistill[fairseq]")
    work = tmp_path_factory.mktemp("demo") / "work"
    done = run_demo(work)
    assert done.returncode == 0, done.stderr
    return work, done.stdout


def test_every_file_is_there_and_the_table_is_printed(whole: tuple[Path, str]) -> None:
    work, printed = whole
    for system in SYSTEMS:
        for name in ("test", "unseen_words", "permuted"):
            assert (work / "decode" / system / f"{name}.jsonl").is_file()
        assert (work / "forced" / system / "test.jsonl").is_file()
    assert "<html" in (work / "report.html").read_text(encoding="utf-8")
    assert (work / "results.md").read_text(encoding="utf-8").startswith("# Artificial language")
    for text in ("ensemble of 2", "EnD", "Proxy-Dirichlet", "AUROC", str(work / "report.html")):
        assert text in printed


def test_no_sentence_is_lost_and_every_one_is_measured(whole: tuple[Path, str]) -> None:
    work, _ = whole
    lines = load(REPOSITORY / "recipes" / "demo", ["scale=tiny"]).data.options["test"]
    for system, kind in SYSTEMS.items():
        for name in (f"decode/{system}/permuted.jsonl", f"forced/{system}/test.jsonl"):
            hypotheses = list(read_hypotheses(work / name))
            assert sorted(hypothesis.id for hypothesis in hypotheses) == list(range(lines))
            assert {hypothesis.model.kind for hypothesis in hypotheses} == {kind}
            assert set(hypotheses[0].uncertainty) == set(measures_of(kind))


def test_forced_texts_are_the_references(whole: tuple[Path, str]) -> None:
    work, _ = whole
    references = (work / "data" / "text" / "test.tgt").read_text(encoding="utf-8").splitlines()
    for hypothesis in read_hypotheses(work / "forced" / "proxy" / "test.jsonl"):
        assert hypothesis.forced
        assert hypothesis.text == references[hypothesis.id]
        assert hypothesis.token_correct is not None
        assert hypothesis.token_confidence is not None


def test_results_have_numbers_and_what_made_them(whole: tuple[Path, str]) -> None:
    work, _ = whole
    results = json.loads((work / "results.json").read_text(encoding="utf-8"))
    assert results["schema"] == "seqdistill.recipe-results/1"
    assert set(results["systems"]) == set(SYSTEMS)
    for name, kind in SYSTEMS.items():
        system = results["systems"][name]
        assert system["model"]["kind"] == kind
        assert "version:" in system["quality"]["test"]["bleu"]["signature"]
        # 300 pieces: nobody is worse than guessing, by much
        assert 0 < system["likelihood"]["nll"] < 8
        assert 0 <= system["calibration"]["ece"] <= 1
        control = system["calibration"]["temperature"]
        if control is None:  # a few updates from random weights: anything goes
            assert "still rises" in system["calibration"]["temperature_problem"]
        else:
            assert 0.5 < control["value"] < 2.0
            assert "|T:" in control["numbers"]["nll"]["signature"]
        found = {(entry["measure"], entry["set"]) for entry in system["ood"]}
        sets = ("unseen_words", "permuted")
        assert found == {(measure, one) for measure in measures_of(kind) for one in sets}
        assert set(system["rejection"]) == set(measures_of(kind))
    assert results["systems"]["ensemble"]["fidelity"] is None
    likeness = results["systems"]["proxy"]["fidelity"]
    assert likeness["n_tokens"] > 100
    divergence = likeness["kl_divergence"]
    assert 0 < divergence["low"] <= divergence["value"] <= divergence["high"]
    assert 0 < likeness["top1_agreement"]["value"] < 1
    assert results["hardware"]["cores"] >= 1
    assert results["versions"]["torch"]
    by_name = {step["name"]: step for step in results["steps"]}
    assert by_name["distil proxy"]["command"].startswith("seqdistill-fairseq-train ")
    assert by_name["distil proxy"]["seconds"] > 0


def test_gradients_are_of_every_loss_at_every_model(whole: tuple[Path, str]) -> None:
    work, _ = whole
    found = read_gradients(work / "gradients.json")
    assert found.sentences == 40
    assert set(found.means) == {"uniform", "start of the students", "Proxy-Dirichlet student"}
    for student in found.shares.values():
        assert set(student) == {"proxy_dirichlet", "proxy_dirichlet_forward", "end2", "mean_kl"}
    assert 'id="gradients"' in (work / "report.html").read_text(encoding="utf-8")


def test_a_second_run_does_nothing(whole: tuple[Path, str]) -> None:
    work, printed = whole
    again = run_demo(work)
    assert again.returncode == 0, again.stderr
    assert "0 of 27 steps run, 27 done before" in again.stderr
    assert again.stdout == printed


def test_a_changed_search_decodes_again_and_trains_nothing(whole: tuple[Path, str]) -> None:
    work, _ = whole
    dry = run_demo(work, "--set", "decode.search.beam=3", "--dry-run", "--stages", "1-6")
    states = [line for line in dry.stdout.splitlines() if line.startswith("# ")]
    assert [
        line for line in states if line.startswith("# 5") and not line.endswith("(to do)")
    ] == []
    assert [line for line in states if line[2] in "12346" and not line.endswith("(done)")] == []
