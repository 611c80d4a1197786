"""The speech recipe at its smallest, whole, through the real programs: tones in, report out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.common.audio import read_split
from recipes.common.recipe import REPOSITORY, load
from seqdistill.hypotheses import read_hypotheses
from seqdistill.uncertainty.measures import measures_of

pytestmark = pytest.mark.slow

SYSTEMS = {"ensemble": "ensemble", "end": "softmax", "proxy": "dirichlet"}
OUTSIDE = ("backwards", "noise10")


def run_recipe(work: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipes.common.run", "recipes/an4", "--work-dir", str(work)]
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
    for module in ("fairseq", "torchaudio", "soundfile"):
        pytest.importorskip(module, reason="needs the extras seqdistill[fairseq,speech]")
    work = tmp_path_factory.mktemp("an4") / "work"
    done = run_recipe(work)
    assert done.returncode == 0, done.stderr
    return work, done.stdout


def test_the_table_is_of_word_errors(whole: tuple[Path, str]) -> None:
    work, printed = whole
    for text in ("# Tones, two teachers", "WER", "CER", "ensemble of 2", "Proxy-Dirichlet"):
        assert text in printed
    assert "BLEU" not in printed
    assert "<html" in (work / "report.html").read_text(encoding="utf-8")


def test_every_utterance_is_there_and_measured(whole: tuple[Path, str]) -> None:
    work, _ = whole
    count = load(REPOSITORY / "recipes" / "an4", ["scale=tiny"]).data.options["limit"]
    for system, kind in SYSTEMS.items():
        for name in ("decode/{}/test", "decode/{}/noise10", "forced/{}/test", "forced/{}/valid"):
            hypotheses = list(read_hypotheses(work / f"{name.format(system)}.jsonl"))
            assert sorted(hypothesis.id for hypothesis in hypotheses) == list(range(count))
            assert {hypothesis.model.kind for hypothesis in hypotheses} == {kind}
            assert set(hypotheses[0].uncertainty) == set(measures_of(kind))


def test_references_are_the_transcripts_where_there_are_some(whole: tuple[Path, str]) -> None:
    work, _ = whole
    spoken = sorted(one.text or "" for one in read_split(work / "data" / "audio" / "test"))
    for name in ("decode/proxy/test", "decode/proxy/noise10"):
        found = read_hypotheses(work / f"{name}.jsonl")
        assert sorted(hypothesis.reference or "" for hypothesis in found) == spoken
    forced = list(read_hypotheses(work / "forced" / "proxy" / "test.jsonl"))
    assert sorted(hypothesis.text for hypothesis in forced) == spoken
    without = read_hypotheses(work / "decode" / "proxy" / "backwards.jsonl")
    assert {hypothesis.reference for hypothesis in without} == {None}


def test_results_have_word_errors_where_there_are_transcripts(whole: tuple[Path, str]) -> None:
    work, _ = whole
    results = json.loads((work / "results.json").read_text(encoding="utf-8"))
    for name, kind in SYSTEMS.items():
        system = results["systems"][name]
        assert system["quality"]["backwards"] is None
        for one in ("test", "noise10"):
            assert system["quality"][one]["rates"]["wer"]["value"] > 0
        assert 0 < system["likelihood"]["nll"] < 8
        found = {(entry["measure"], entry["set"]) for entry in system["ood"]}
        assert found == {(measure, one) for measure in measures_of(kind) for one in OUTSIDE}
    assert results["systems"]["proxy"]["fidelity"]["n_tokens"] > 20


def test_a_second_run_does_nothing(whole: tuple[Path, str]) -> None:
    work, printed = whole
    again = run_recipe(work)
    assert again.returncode == 0, again.stderr
    assert "0 of 23 steps run, 23 done before" in again.stderr
    assert again.stdout == printed
