"""WMT17's recipe at its smallest, whole: 40,008 pieces, two processes on DeepSpeed's engine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.common.recipe import REPOSITORY
from seqdistill.hypotheses import read_hypotheses

pytestmark = pytest.mark.slow

SYSTEMS = ("ensemble", "proxy", "our_proxy")
SETS = ("biomedical", "permuted")
VOCABULARY = 40_008
_TIME_LIMIT = 1500  # seconds, of a busy machine; a process that waits for another ends then


def run(work: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "recipes/wmt17_en_de/run.sh", "--smoke", "--work-dir", str(work)],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIME_LIMIT,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The work folder of a finished run, and what the run printed."""
    for module in ("fairseq", "deepspeed"):
        pytest.importorskip(module, reason="needs the extras seqdistill[fairseq,deepspeed]")
    work = tmp_path_factory.mktemp("wmt17") / "work"
    done = run(work)
    assert done.returncode == 0, done.stderr
    return work, done.stdout


def test_the_vocabulary_is_as_large_as_at_full_size(whole: tuple[Path, str]) -> None:
    work, _ = whole
    lines = (work / "data/binarised/dict.de.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) + 4 == VOCABULARY
    assert (work / "data/pieces/spm.vocab").read_text(encoding="utf-8").count("\n") == 40_000
    for name in ("teachers/teacher1", "students/proxy"):
        state = torch.load(work / name / "averaged.pt", weights_only=False)
        assert state["model"]["decoder.embed_tokens.weight"].shape == (VOCABULARY, 16)


def test_trainings_are_of_two_processes_on_the_engine(whole: tuple[Path, str]) -> None:
    work, _ = whole
    results = json.loads((work / "results.json").read_text(encoding="utf-8"))
    commands = {step["name"]: step["command"] for step in results["steps"]}
    for name in ("teacher 1", "teacher 2", "distil proxy", "distil our_proxy"):
        expected = "env DS_ACCELERATOR=cpu torchrun --standalone --nproc_per_node 2 --no-python "
        assert commands[name].startswith(expected + "seqdistill-fairseq-train ")
        assert "--deepspeed recipes/wmt17_en_de/deepspeed/smoke.json" in commands[name]
    shards = [
        path.name for path in (work / "teachers/teacher1/deepspeed").rglob("*optim_states.pt")
    ]
    assert any("rank_1" in name for name in shards)


def test_averages_are_of_whole_weights(whole: tuple[Path, str]) -> None:
    from seqdistill.integrations.deepspeed.weights import consolidate

    folder = whole[0] / "teachers" / "teacher1"
    kept = sorted(folder.glob("checkpoint[0-9]*.pt"))
    assert len(kept) == 2
    mean = torch.load(folder / "averaged.pt", weights_only=False)["model"]
    first, second = (consolidate(path)["model"] for path in kept)
    name = "decoder.layers.0.fc1.weight"
    assert not torch.equal(first[name], second[name])
    torch.testing.assert_close(mean[name], ((first[name].double() + second[name]) / 2).float())


def test_students_train_on_references_and_on_what_the_ensemble_says(
    whole: tuple[Path, str],
) -> None:
    work, _ = whole
    pairs = len((work / "data/text/train.en").read_text(encoding="utf-8").splitlines())
    log = next((work / "logs").glob("*-distil-proxy.log")).read_text(encoding="utf-8")
    assert f"loaded {2 * pairs} examples" in log
    counts = json.loads((work / "data/text/cleaning.json").read_text())["corpora"]
    assert sum(count["kept"] for count in counts.values()) == pairs


def test_every_set_is_measured(whole: tuple[Path, str]) -> None:
    work, printed = whole
    results = json.loads((work / "results.json").read_text(encoding="utf-8"))
    assert set(results["systems"]) == set(SYSTEMS)
    for name in SYSTEMS:
        system = results["systems"][name]
        assert set(system["quality"]) == {"test", *SETS}
        assert system["quality"]["biomedical"] is not None
        assert system["quality"]["permuted"] is None  # it has no references
        assert {entry["set"] for entry in system["ood"]} == set(SETS)
        assert 0 < system["likelihood"]["nll"] < 12
        assert len(list(read_hypotheses(work / "decode" / name / "permuted.jsonl"))) == 6
    table = (work / "results.md").read_text(encoding="utf-8")
    assert re.search(r"\| system +\| +test \| +biomedical \|", table)
    assert "Proxy-Dirichlet, ours" in printed
    assert "<html" in (work / "report.html").read_text(encoding="utf-8")


def test_a_second_run_does_nothing(whole: tuple[Path, str]) -> None:
    again = run(whole[0])
    assert again.returncode == 0, again.stderr
    assert re.search(r"0 of (\d+) steps run, \1 done before", again.stderr)
    assert again.stdout == whole[1]
